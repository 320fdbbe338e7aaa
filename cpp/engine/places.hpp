// Who is computed: so many sequences have a place, those with a reader first. The others are
// computed with the columns that are left, and hold no more of the KV cache than a bound; beyond
// it, the longest unread ones are paused.
#pragma once
#include <cstddef>
#include <cstdint>

#include "engine/sequence.hpp"

namespace starchat {

class Places {
 public:
  // most_pages: of the KV cache, that sequences without a place may hold.
  Places(int n_places, size_t most_pages) : n_places_(n_places), most_pages_(most_pages) {}

  // Gives the places for a step, by the streams' states, and admits waiting sequences, first come,
  // first served. An unread one is admitted while fewer than n_places have room in their streams,
  // and only if it will stay within the bound: nothing is computed to be thrown away. Once paused,
  // it waits until it is read.
  void give(Sequences& running, Sequences& waiting) noexcept;
  // Pauses the sequence without a place that has not been read for longest. False: there is none.
  static bool pause_one(const Sequences& running) noexcept;

 private:
  bool take_place(Sequence& sequence) noexcept;

  const int n_places_;
  const size_t most_pages_;
  uint64_t step_ = 0;
  int n_read_ = 0, n_slow_ = 0;  // sequences with a place; slow ones, which have their own
};

}  // namespace starchat
