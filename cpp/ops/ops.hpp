// The operations of the graph on whole batches: kernels, divided among threads. One thread computes
// each output element in a fixed order, so results do not depend on the batch or on n_threads.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/arena.hpp"
#include "base/thread_pool.hpp"
#include "kernels/kernels.hpp"
#include "ops/activation_buffer.hpp"
#include "ops/packed_matrix.hpp"

namespace starchat {

struct Compute {
  const Kernels& kernels;
  ThreadPool& threads;
};

struct LayerNorm {
  std::vector<float> gain, bias;  // (n)
  float eps;
};

// Activations (n_columns, n_cols) in the format that a matrix needs: quantized to 8 bits, or
// floats. A tile interleaves the blocks of up to 24 columns, because they meet the same weights.
class ActivationTiles {
 public:
  // reorders: some of the weights have a column_order.
  ActivationTiles(int max_columns, int max_cols, bool reorders = false);
  static size_t size_bytes(int max_columns, int max_cols);
  // For a product with these weights; set_column() for each column follows.
  void prepare_for(const PackedMatrix& weights, int n_columns);

  int n_columns() const { return n_columns_; }
  bool fits(const PackedMatrix& weights) const {  // prepared for such a type and as many columns
    return activation_format(weights_) == activation_format(weights.kind()) &&
           n_blocks_ == weights.n_blocks();
  }
  const std::byte* tile(int tile) const;
  void set_column(const Kernels& kernels, int column, const float* x);  // x: (n_cols)

 private:
  int tile_width(int tile) const;

  Arena storage_;
  std::optional<ActivationBuffer> ordered_;  // (max_columns, max_cols)
  std::span<const int32_t> order_;           // of the matrix
  WeightKind weights_{};                     // of the matrix
  int n_columns_ = 0, n_blocks_ = 0;
  size_t column_bytes_ = 0;
};

// Writes the normalised columns x[columns[c]] to column c of the tiles. scratch: (n_threads, n).
void layer_norm(const Compute& compute, const LayerNorm& norm, const ActivationBuffer& x, int n,
                std::span<const int32_t> columns, ActivationBuffer& scratch, ActivationTiles& out);

// Writes x to the tiles, after gelu in place if asked.
void to_tiles(const Compute& compute, ActivationBuffer& x, int n, bool gelu, ActivationTiles& out);

// out = x · Wᵀ + bias, or out += with accumulate. out: (n_columns, n_padded_rows); bias:
// (n_padded_rows) or empty. Throws std::logic_error if x was prepared for other weights.
void matmul(const Compute& compute, const PackedMatrix& weights, const ActivationTiles& x,
            std::span<const float> bias, bool accumulate, ActivationBuffer& out);

}  // namespace starchat
