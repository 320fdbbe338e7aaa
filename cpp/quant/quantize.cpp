#include "quant/quantize.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "base/errors.hpp"
#include "quant/half.hpp"
#include "quant/searched_blocks.hpp"

namespace starchat {
namespace {

constexpr size_t kPieceWeights = 1 << 16;  // that a thread claims: milliseconds of work
constexpr size_t kSlicePieces = 16;        // of each thread between two reports

// The largest magnitude; of NaN, NaN.
float largest_of(const float* x, size_t n) {
  uint32_t largest = 0;
  for (size_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffff);
  }
  return std::bit_cast<float>(largest);
}

// ---- floats: whether the value is finite --------------------------------------------------------

bool quantize_block(const float* x, BlockF32& block) {
  block.value = *x;
  return true;
}

bool quantize_block(const float* x, BlockF16& block) {
  block.value = f32_to_f16(*x);
  return is_finite(block.value);
}

bool quantize_block(const float* x, BlockBF16& block) {  // to the nearest, ties to even
  const auto bits = std::bit_cast<uint32_t>(*x);
  block.value = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  return (block.value & 0x7f80) != 0x7f80;
}

// ---- blocks of 32, in the arithmetic order of ggml: whether their halves are finite -------------

constexpr int kBlockWeights = Block32::kWeights;

// 0 for a scale of 0, and for one so small that it is 0 as a half.
float inverse_of(float scale) {
  const float inverse = 1.0f / scale;
  return std::abs(inverse) <= std::numeric_limits<float>::max() ? inverse : 0.0f;
}

template <class Block>
void put_codes(const uint8_t (&codes)[kBlockWeights], Block& block) {
  for (int i = 0; i < 16; ++i) {
    block.qs[i] = static_cast<uint8_t>((codes[i] & 15) | codes[i + 16] << 4);
  }
  if constexpr (requires { block.qh; }) {
    uint32_t high = 0;
    for (int i = 0; i < kBlockWeights; ++i) high |= static_cast<uint32_t>(codes[i] >> 4) << i;
    std::memcpy(block.qh, &high, sizeof high);
  }
}

// Codes from the lowest weight's 0 to the highest's, or to one less.
template <class Block>
void put_rounded(const float* x, float low, float inverse, float middle, int max_code,
                 Block& block) {
  uint8_t codes[kBlockWeights];
  for (int i = 0; i < kBlockWeights; ++i) {
    codes[i] =
        static_cast<uint8_t>(std::min(static_cast<int>((x[i] - low) * inverse + middle), max_code));
  }
  put_codes(codes, block);
}

// The weight farthest from zero, the first of several, becomes code 0, whatever its sign.
template <int kLevels, class Block>
bool quantize_centred(const float* x, Block& block) {
  float farthest = 0.0f;
  for (int i = 0; i < kBlockWeights; ++i) {
    if (i == 0 || std::abs(x[i]) > std::abs(farthest)) farthest = x[i];
  }
  const float d = farthest / static_cast<float>(-kLevels / 2);
  block.d = f32_to_f16(d);
  put_rounded(x, 0.0f, inverse_of(d), kLevels / 2 + 0.5f, kLevels - 1, block);
  return is_finite(block.d);
}

template <int kLevels, class Block>
bool quantize_from_minimum(const float* x, Block& block) {
  float low = x[0], high = x[0];  // the first of zeros of both signs
  for (int i = 1; i < kBlockWeights; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  const float d = (high - low) / static_cast<float>(kLevels - 1);
  block.d = f32_to_f16(d);
  block.m = f32_to_f16(low);
  put_rounded(x, low, inverse_of(d), 0.5f, kLevels - 1, block);
  return is_finite(block.d) && is_finite(block.m);
}

bool quantize_block(const float* x, BlockQ4_0& block) { return quantize_centred<16>(x, block); }
bool quantize_block(const float* x, BlockQ5_0& block) { return quantize_centred<32>(x, block); }
bool quantize_block(const float* x, BlockQ4_1& b) { return quantize_from_minimum<16>(x, b); }
bool quantize_block(const float* x, BlockQ5_1& b) { return quantize_from_minimum<32>(x, b); }

bool quantize_block(const float* x, BlockQ8_0& block) {
  float largest = 0.0f;
  for (int i = 0; i < kBlockWeights; ++i) largest = std::max(largest, std::abs(x[i]));
  const float d = largest / 127.0f, inverse = inverse_of(d);
  block.d = f32_to_f16(d);
  for (int i = 0; i < kBlockWeights; ++i) {  // halves away from zero; sums below are exact
    const float scaled = x[i] * inverse, size = std::abs(scaled);
    const int whole = static_cast<int>(size);
    const int code = whole + (size - static_cast<float>(whole) >= 0.5f ? 1 : 0);
    block.qs[i] = static_cast<uint8_t>(scaled < 0.0f ? -code : code);
  }
  return is_finite(block.d);
}

// -------------------------------------------------------------------------------------------------

template <class Block>
bool quantize_blocks(const float* src, const float* columns, size_t n, std::byte* dst) {
  bool fits = true;
  for (size_t first = 0; first < n; first += Block::kWeights, dst += sizeof(Block)) {
    Block block;
    if constexpr (Block::kWeights == Block256::kWeights) {
      fits &= quantize_block(src + first, columns ? columns + first : nullptr, block);
    } else {
      fits &= quantize_block(src + first, block);
    }
    std::memcpy(dst, &block, sizeof block);
  }
  return fits;
}

template <>
bool quantize_blocks<BlockIQ4_NL>(const float* src, const float* columns, size_t n,
                                  std::byte* dst) {
  constexpr size_t kWeights = 4 * BlockIQ4_NL::kWeights;
  bool fits = true;
  for (size_t first = 0; first < n; first += kWeights, dst += 4 * sizeof(BlockIQ4_NL)) {
    const size_t n_here = std::min(kWeights, n - first);
    float x[kWeights] = {}, importance[kWeights] = {};
    std::copy_n(src + first, n_here, x);
    if (columns) std::copy_n(columns + first, n_here, importance);
    BlockIQ4_NL blocks[4];
    fits &= quantize_block(x, columns ? importance : nullptr, blocks);
    std::memcpy(dst, blocks, n_here / BlockIQ4_NL::kWeights * sizeof blocks[0]);
  }
  return fits;
}

// Returns whether the type can hold the weights.
bool quantize_row(TensorType type, const float* src, const float* columns, size_t n,
                  std::byte* dst) {
  // Sums of squares stay finite; no quantized type holds more than 65504 · 4096.
  const float limit = is_quantized(type) ? 1e15f : std::numeric_limits<float>::max();
  if (!(largest_of(src, n) <= limit)) return false;
  switch (type) {
#define TENSOR_TYPE(Type, name, id, ftype, Block, ...) \
  case TensorType::Type:                               \
    return quantize_blocks<Block>(src, columns, n, dst);
#include "quant/types.def"
#undef TENSOR_TYPE
  }
  return false;
}

}  // namespace

void quantize_rows(TensorType type, const float* src, size_t n_rows, size_t n_cols, std::byte* dst,
                   std::span<const float> importance, ThreadPool& threads,
                   const RowsReport& report) {
  const float* const columns = importance.empty() ? nullptr : importance.data();
  const size_t row_bytes = size_of_weights(type, n_cols);
  const size_t grain = std::max<size_t>(1, kPieceWeights / std::max<size_t>(1, n_cols));
  const size_t slice = grain * kSlicePieces * threads.n_threads();
  std::atomic<bool> fits = true;
  for (size_t first = 0; first < n_rows; first += slice) {
    const size_t n = std::min(slice, n_rows - first);
    threads.parallel_for(n, grain, [&](int64_t begin, int64_t end, int) {
      for (size_t row = first + begin; row < first + end; ++row) {
        if (!quantize_row(type, src + row * n_cols, columns, n_cols, dst + row * row_bytes)) {
          fits = false;
        }
      }
    });
    if (!fits) {
      throw InvalidRequestError("weights are not finite, or too large for " +
                                std::string(traits(type).name));
    }
    report(first + n);
  }
}

}  // namespace starchat
