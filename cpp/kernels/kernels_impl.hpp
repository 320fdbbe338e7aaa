// Every kernel, as a template over V: the SIMD operations of one instruction set on 16 lanes. V::F
// is a vector of floats, V::I of int32, V::Quad of four bytes for each lane. V::Rows: the lanes of
// which a product takes several columns at once. The order of operations is written only here and
// in the files below, so all instruction sets give the same bits. Included by one .cpp each;
// internal linkage keeps their code apart.
#pragma once
#include "kernels/attention_impl.hpp"
#include "kernels/lanes_impl.hpp"
#include "kernels/product_impl.hpp"

namespace starchat {
namespace {

// Quantizes a group of up to 16 blocks and returns its scale.
template <class V, int kParts>
float quantize_group(const float* x, int n_blocks, int32_t offset, ActivationBlock<kParts>* out,
                     int stride) {
  const auto values = [&](int b, int i) { return V::load(x + b * kBlock + i * kLanes); };
  // Bits of absolute values, compared as integers, have the order of the values; NaN is above
  // infinity. The upper bits of a difference are the difference of the exponents.
  int32_t block_max[kGroupBlocks], group_max = 0;
  for (int b = 0; b < n_blocks; ++b) {
    const auto low = V::as_int(V::abs(values(b, 0))), high = V::as_int(V::abs(values(b, 1)));
    block_max[b] = V::max_of(V::max_int(low, high));
    if (block_max[b] > group_max) group_max = block_max[b];
  }
  float largest;
  __builtin_memcpy(&largest, &group_max, sizeof largest);
  if (!(largest <= 3e38f)) {  // infinity or NaN: the result must be NaN, not a plausible number
    for (int b = 0; b < n_blocks; ++b) out[b * stride] = {};
    return __builtin_nanf("");
  }
  const bool is_tiny = largest < 1e-30f;  // 127 / largest would overflow: use zeros instead
  const float inverse = is_tiny ? 0.0f : 127.0f / largest;
  for (int b = 0; b < n_blocks; ++b, out += stride) {
    // n is as large as possible while (the block's maximum) · 2^n <= the group's maximum.
    const int n = smaller((group_max - block_max[b]) >> kMantissaBits, kMaxPower);
    const auto factor = V::set1(inverse * static_cast<float>(1 << n));
    const auto low = V::round(V::mul(values(b, 0), factor));
    const auto high = V::round(V::mul(values(b, 1), factor));
    V::store_bytes(out->q, low);
    V::store_bytes(out->q + kLanes, high);
    out->power = (kMaxPower - n) << kMantissaBits;
    for (int part = 0; part < kParts; ++part) {
      const int32_t sum = V::sum_of(kParts == 1 ? V::add_int(low, high) : part == 0 ? low : high);
      if (offset != 0) {
        out->start[part] = -offset * sum;
      } else {
        out->scaled_sum[part] = static_cast<float>(sum * (1 << (kMaxPower - n)));
      }
    }
  }
  return is_tiny ? 0.0f : largest / 127.0f * (1.0f / (1 << kMaxPower));
}

template <class V, int kParts>
void quantize_column(const float* x, int n_blocks, WeightKind weights, std::byte* tile, int column,
                     int width) {
  auto* blocks = reinterpret_cast<ActivationBlock<kParts>*>(tile) + column;
  auto* scales =
      reinterpret_cast<float*>(tile + activation_format(weights).scales_offset(n_blocks, width)) +
      column;
  for (int b = 0; b < n_blocks; b += kGroupBlocks, scales += width) {
    *scales = quantize_group<V>(x + b * kBlock, smaller(n_blocks - b, kGroupBlocks),
                                weight_offset<V>(weights), blocks + b * width, width);
  }
}

template <class V>
void quantize(const float* x, int n_blocks, WeightKind weights, std::byte* tile, int column,
              int width) {
  const auto quantize = weights.n_parts() == 1 ? quantize_column<V, 1> : quantize_column<V, 2>;
  quantize(x, n_blocks, weights, tile, column, width);
}

// A sum over a column of n elements has 64 lanes: element i is added in lane i % 64. A chain of
// dependent additions is a quarter as long as in 16 lanes. add(sum, i) adds elements i to i + 15.
template <class V, class Add>
float sum_column(int n, const Add& add) {
  constexpr int kVectors = kColumnLanes / kLanes;
  typename V::F sum[kVectors];
  for (auto& s : sum) s = V::set1(0.0f);
  int i = 0;
  for (; i + kColumnLanes <= n; i += kColumnLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[j] = add(sum[j], i + j * kLanes);
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) {
    if (i + j * kLanes < n) sum[j] = add(sum[j], i + j * kLanes);
  }
  return sum_lanes<V>(V::add(V::add(sum[0], sum[2]), V::add(sum[1], sum[3])));
}

template <class V>
void layer_norm(const float* x, const float* gain, const float* bias, int n, float eps,
                float* out) {
  using F = typename V::F;
  const auto add = [x](F sum, int i) { return V::add(sum, V::load(x + i)); };
  const F mean = V::set1(sum_column<V>(n, add) / static_cast<float>(n));
  const auto add_square = [x, mean](F sum, int i) {
    const F centred = V::sub(V::load(x + i), mean);
    return V::fma(centred, centred, sum);
  };
  const float variance = sum_column<V>(n, add_square) / static_cast<float>(n);
  const F inverse = V::set1(1.0f / __builtin_sqrtf(variance + eps));
  for (int i = 0; i < n; i += kLanes) {
    const F normal = V::mul(V::sub(V::load(x + i), mean), inverse);
    V::store(out + i, V::fma(normal, V::load(gain + i), V::load(bias + i)));
  }
}

// x/2 · (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) · (x + 0.044715 x³)
template <class V>
void gelu(float* x, int n) {
  using F = typename V::F;
  for (int i = 0; i < n; i += kLanes) {
    const F v = V::load(x + i);
    const F cubic = V::fma(V::mul(v, v), V::set1(0.044715f), V::set1(1.0f));
    const F minus_2u = V::mul(V::mul(v, cubic), V::set1(-1.5957691216f));
    V::store(x + i, V::div(v, V::add(V::set1(1.0f), exp<V>(minus_2u))));
  }
}

template <class V>
void to_half(const float* x, int n, uint16_t* out) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) V::store_half(out + i, V::load(x + i));
  if (i == n) return;
  float lane[kLanes] = {};
  uint16_t half[kLanes];
  for (int j = i; j < n; ++j) lane[j - i] = x[j];
  V::store_half(half, V::load(lane));
  for (int j = i; j < n; ++j) out[j] = half[j - i];
}

template <class V>
Kernels make_kernels(const char* name) {
  return {name,
          {
#define TENSOR_TYPE(Type, ...) panel_product<V, traits(TensorType::Type).kind>,
#include "quant/types.def"
#undef TENSOR_TYPE
          },
          quantize<V>,
          layer_norm<V>,
          gelu<V>,
          attention_scores<V>,
          attention_weights<V>,
          attention_means<V>,
          to_half<V>};
}

}  // namespace
}  // namespace starchat
