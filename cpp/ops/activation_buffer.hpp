// Floats of every column of a batch, between two operations. Columns begin on cache lines and are
// an odd number of lines apart: a product writes the same rows of all columns, and with a distance
// of a power of two these would share a few sets of the cache.
#pragma once
#include <cstddef>

#include "base/arena.hpp"

namespace starchat {

class ActivationBuffer {
 public:
  ActivationBuffer(int max_columns, size_t n_rows)  // throws OutOfMemoryError
      : stride_(stride_of(n_rows)), arena_(size_bytes(max_columns, n_rows)) {}

  static size_t size_bytes(int max_columns, size_t n_rows) {
    return max_columns * stride_of(n_rows) * sizeof(float);
  }

  size_t stride() const { return stride_; }
  float* operator[](int column) const {
    return reinterpret_cast<float*>(arena_.data()) + column * stride_;
  }

 private:
  static constexpr size_t kLine = 16;  // floats of a cache line
  static size_t stride_of(size_t n_rows) { return (n_rows + kLine - 1) / kLine * kLine | kLine; }

  size_t stride_;
  Arena arena_;
};

}  // namespace starchat
