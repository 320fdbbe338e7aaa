// Quantizes weights: the inverse of dequantize_row. Blocks of the types of 32 weights but IQ4_NL
// have ggml's bytes. For the others, scale_search.hpp makes the squared error small.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/thread_pool.hpp"
#include "quant/types.hpp"

namespace starchat {

// Told how many rows are done; may throw to end the work.
using RowsReport = std::function<void(size_t n_done)>;

// src: (n_rows, n_cols) floats; n_cols is a multiple of the type's block_weights.
// dst: size_of_weights(type, n_rows · n_cols) bytes, which do not depend on the number of threads.
// importance: of each column in the squared error; empty: all count alike. Types that have ggml's
// bytes do without. Throws InvalidRequestError for weights that the type cannot hold.
void quantize_rows(TensorType type, const float* src, size_t n_rows, size_t n_cols, std::byte* dst,
                   std::span<const float> importance, ThreadPool& threads,
                   const RowsReport& report);

}  // namespace starchat
