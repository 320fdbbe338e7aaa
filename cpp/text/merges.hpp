// The merge table of byte-pair encoding: which two adjacent tokens become which one, and the
// algorithm that applies it. A merged token's rank is its id: the lowest id merges first, the
// leftmost of equals. Used by Tokenizer, which rebuilds the table from the vocabulary.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace starchat {

class Merges {
 public:
  explicit Merges(size_t capacity);  // the number of add() calls that will follow at most

  // Every pair is added once and makes an id of its own.
  void add(int32_t left, int32_t right, int32_t merged);

  // Merges neighbours in place until none is left that can. O(n log n) for n ids.
  void apply(std::vector<int32_t>& ids) const;

 private:
  struct Entry {
    uint64_t pair;  // left << 32 | right
    int32_t merged;
  };
  static constexpr int32_t kNone = INT32_MAX;  // ranks after every merge

  int32_t find(int32_t left, int32_t right) const noexcept;
  size_t slot(uint64_t pair) const noexcept;

  std::vector<Entry> entries_;  // open addressing, linear probing, at most half full
  int shift_;                   // a 64-bit hash >> shift_ is a position in entries_
};

}  // namespace starchat
