// The operations of the graph over whole batches: kernels x thread pool. Every output element is
// computed by one thread in one fixed order, so neither the batch nor the team changes it.
#pragma once
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

// Activations (n_columns, n_cols) in the format of the matrix that they meet: quantized to 8 bits,
// or floats. kTileColumns are interleaved: blocks that meet the same weights.
class ActivationTiles {
 public:
  ActivationTiles(int max_columns, int max_cols);
  void shape(const PackedMatrix& weights, int n_columns);  // then set_column() for each

  int n_columns() const { return n_columns_; }
  bool fits(const PackedMatrix& weights) const {  // prepared for its type and its columns
    return activation_format(weights_) == activation_format(weights.kind()) &&
           n_blocks_ == weights.n_blocks();
  }
  const std::byte* tile(int tile) const;
  void set_column(const Kernels& kernels, int column, const float* x);  // x: (n_cols)

 private:
  int tile_width(int tile) const;

  Arena storage_;
  WeightKind weights_{};  // of the matrix
  int n_columns_ = 0, n_blocks_ = 0;
  size_t column_bytes_ = 0;
};

// out[c] = x[columns[c]] normalised, as tiles. scratch: (n_threads, n).
void layer_norm(const Compute& compute, const LayerNorm& norm, const ActivationBuffer& x, int n,
                std::span<const int32_t> columns, ActivationBuffer& scratch, ActivationTiles& out);

// As tiles, after gelu in place where asked.
void to_tiles(const Compute& compute, ActivationBuffer& x, int n, bool gelu, ActivationTiles& out);

// out = x · Wᵀ + bias, or += with accumulate; it holds n_padded_rows. bias: (n_padded_rows) or
// empty. Throws std::logic_error for activations in the format of other weights.
void matmul(const Compute& compute, const PackedMatrix& weights, const ActivationTiles& x,
            std::span<const float> bias, bool accumulate, ActivationBuffer& out);

}  // namespace starchat
