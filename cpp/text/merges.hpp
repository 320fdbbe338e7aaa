// The merge table of byte-pair encoding (BPE) and the algorithm that applies it: two adjacent
// tokens become one. The first merge in the table is applied first; where it can be at two places,
// at the left one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace starchat {

// Called now and then by long work on a text; what it throws ends the work.
using Pause = std::function<void()>;

class Merges {
 public:
  explicit Merges(size_t capacity);  // the largest number of add() calls that will follow

  // The next rank; a pair keeps the one that it had first.
  void add(int32_t left, int32_t right, int32_t merged);

  // Merges neighbours in place until no merge is possible. O(n log n) for n ids.
  void apply(std::vector<int32_t>& ids, const Pause& pause = {}) const;

 private:
  struct Entry {
    uint64_t pair;  // left << 32 | right
    int32_t rank;
  };
  static constexpr int32_t kNone = INT32_MAX;  // no merge: ranks after all merges

  int32_t find(int32_t left, int32_t right) const noexcept;
  size_t slot(uint64_t pair) const noexcept;

  std::vector<Entry> entries_;    // open addressing, linear probing, at most half full
  std::vector<int32_t> results_;  // by rank: the id that a pair becomes
  int shift_;                     // a 64-bit hash >> shift_ is a position in entries_
};

}  // namespace starchat
