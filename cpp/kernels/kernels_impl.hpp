// Every kernel over a vocabulary V of 16-lane vectors that each instruction set supplies: V::F
// floats, V::I int32, and quads of weights in the form that it multiplies. The order of operations
// is written here and in the three files below, so it is the same everywhere, and so are the bits.
// Included by one .cpp per instruction set; internal linkage keeps their code apart.
#pragma once
#include "kernels/attention_impl.hpp"
#include "kernels/lanes_impl.hpp"
#include "kernels/product_impl.hpp"

namespace starchat {
namespace {

template <class V>
void quantize(const float* x, int n_blocks, TensorType weights, ActivationBlock* out,
              int record_stride) {
  using F = typename V::F;
  const int32_t offset = weight_offset<V>(weights);
  for (int b = 0; b < n_blocks; ++b, x += kBlock, out += record_stride) {
    const F low = V::load(x), high = V::load(x + kLanes);
    const float largest = max_magnitude<V>(low, high);
    if (!(largest <= 3e38f)) {  // overflow upstream must not look like a result
      *out = {{}, __builtin_nanf(""), 0, __builtin_nanf("")};
      continue;
    }
    // Below 1e-30 the inverse would overflow, and nothing is lost.
    const float inverse = largest < 1e-30f ? 0.0f : 127.0f / largest;
    const auto q_low = V::round(V::mul(low, V::set1(inverse)));
    const auto q_high = V::round(V::mul(high, V::set1(inverse)));
    V::store_bytes(out->q, q_low);
    V::store_bytes(out->q + kLanes, q_high);
    const int32_t sum = V::sum_of(V::add_int(q_low, q_high));
    out->scale = largest < 1e-30f ? 0.0f : largest / 127.0f;
    out->start = -offset * sum;
    out->scaled_sum = out->scale * static_cast<float>(sum);
  }
}

template <class V>
void layer_norm(const float* x, const float* gain, const float* bias, int n, float* out) {
  using F = typename V::F;
  F sum = V::set1(0.0f);
  for (int i = 0; i < n; i += kLanes) sum = V::add(sum, V::load(x + i));
  const F mean = V::set1(sum_lanes<V>(sum) / static_cast<float>(n));
  F squares = V::set1(0.0f);
  for (int i = 0; i < n; i += kLanes) {
    const F centred = V::sub(V::load(x + i), mean);
    squares = V::fma(centred, centred, squares);
  }
  const float variance = sum_lanes<V>(squares) / static_cast<float>(n);
  const F inverse = V::set1(1.0f / __builtin_sqrtf(variance + 1e-5f));
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
          {panel_product<V, TensorType::F32>, panel_product<V, TensorType::F16>,
           panel_product<V, TensorType::Q4_0>, panel_product<V, TensorType::Q4_1>,
           panel_product<V, TensorType::Q5_0>, panel_product<V, TensorType::Q5_1>,
           panel_product<V, TensorType::Q8_0>},
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
