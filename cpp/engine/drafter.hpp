// Guesses how a sequence goes on: the way it went on the last time that its last three ids stood
// there. Code answers quote their prompt. A guess is checked by the model in the step that it
// would have made anyway, so a wrong one changes nothing but that step's width.
// Source: prompt look-up decoding, as in Saxena (2023).
#pragma once
#include <cstdint>
#include <span>
#include <unordered_map>

namespace starchat {

class Drafter {
 public:
  // The guessed continuation of ids, at most `limit` long: a view into ids. Each call sees the ids
  // of the one before, and more behind them.
  std::span<const int32_t> guess(std::span<const int32_t> ids, int limit);

  // What became of the last guess: longer ones when they were right, shorter and rarer ones when
  // they were not, so that text which quotes nothing costs nothing.
  void learn(int n_guessed, int n_right);

 private:
  static constexpr int kGram = 3;
  // With the id before them, guesses fill the four columns that kernels take at a time: a step of
  // three takes longer than one of four, five to seven as long as eight.
  static constexpr int kShort = 3, kLongest = 15;  // and 1, 7 between and below them

  static uint64_t key(std::span<const int32_t> ids, size_t end);

  std::unordered_map<uint64_t, int32_t> next_;  // three ids → the position behind their last place
  size_t n_indexed_ = kGram;                    // grams that end before this position are in next_
  size_t distance_ = 0;                         // from the end back to where it was quoted from
  bool resumes_ = false;  // behind the id that ended a guess: edits often replace one and quote on
  int length_ = kShort, n_failures_ = 0, n_to_skip_ = 0;
};

}  // namespace starchat
