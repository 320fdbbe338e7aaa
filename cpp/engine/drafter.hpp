// Prompt-lookup speculative decoding (Saxena 2023): finds the latest earlier place of a sequence's
// last three ids and guesses that the same ids follow again, as in answers that quote code. The
// model checks guesses in its next step, so a wrong guess changes no token; it only makes that step
// wider.
#pragma once
#include <cstdint>
#include <span>
#include <unordered_map>

namespace starchat {

class Drafter {
 public:
  // The guessed continuation of ids, at most `limit` long: a view into ids. Successive calls must
  // pass the same ids with more appended.
  std::span<const int32_t> guess(std::span<const int32_t> ids, int limit);

  // The outcome of the last guess. Right guesses make the next ones longer; wrong guesses make them
  // shorter and rarer, so text without quotations is not slowed down.
  void learn(int n_guessed, int n_right);

 private:
  static constexpr int kGram = 3;
  // Lengths are 1, 3, 7, 15: with the id before it, a guess fills 2, 4, 8 or 16 columns, which cost
  // less than odd numbers. Steps of SantaCoder's shape, relative to 1 column: 3 columns 1.47, 4
  // 1.36, 7 2.41, 8 1.98, 16 3.26 (q4_0, 2 threads, AVX-512).
  static constexpr int kShort = 3, kLongest = 15;

  static uint64_t key(std::span<const int32_t> ids, size_t end);

  std::unordered_map<uint64_t, int32_t> next_;  // three ids → the position after their last place
  size_t n_indexed_ = kGram;                    // trigrams that end before this are in next_
  size_t distance_ = 0;                         // from the end back to the quoted text
  bool resumes_ = false;  // go on quoting after a wrong id: edits often replace a single one
  int length_ = kShort, n_failures_ = 0, n_to_skip_ = 0;
};

}  // namespace starchat
