// A weight matrix in strips of 16 rows, the layout that kernels read (StripLayout in kernels.hpp).
// Packing only moves bits: size and values are those of the file.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.hpp"

namespace starchat {

struct PackedMatrix {
  TensorType type{};
  int n_rows = 0, n_cols = 0;       // n_cols is a multiple of the type's block_weights and of 32
  const std::byte* data = nullptr;  // (n_strips, strip_bytes), 64-byte aligned
  // Column i multiplies x[column_order[i]]; empty: x[i]. For weights whose columns are sorted, so
  // that those with one scale make whole blocks.
  std::vector<int32_t> column_order;

  int n_strips() const { return (n_rows + kLanes - 1) / kLanes; }
  int n_padded_rows() const { return n_strips() * kLanes; }
  WeightKind kind() const { return traits(type).kind; }
  int n_blocks() const { return n_cols / kBlock; }
  size_t strip_bytes() const;
  size_t size_bytes() const { return n_strips() * strip_bytes(); }
  const std::byte* strip(int i) const { return data + i * strip_bytes(); }
};

// rows: up to 16 rows as the file stores them, one after the other; missing ones become zero.
// Returns whether every weight, or the scale and minimum of its block, is finite.
bool pack_strip(TensorType type, int n_cols, std::span<const std::byte> rows, std::byte* strip);

// The floats of one row, exactly as dequantize_row gives them for the file's bytes.
void unpack_row(const PackedMatrix& matrix, int row, float* out);

}  // namespace starchat
