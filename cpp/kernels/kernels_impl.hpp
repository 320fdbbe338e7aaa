// Every kernel, once, over a vocabulary V of 16-lane vectors that each instruction set supplies:
// V::F floats, V::I int32, V::Quads 8 x 64 weights. The order of operations is written here, so
// it is the same everywhere, and so are the bits.
// Included by one .cpp per instruction set; internal linkage keeps their code apart.
#pragma once
#include <type_traits>

#include "kernels/kernels.hpp"

namespace starchat {
namespace {

constexpr int kLanes = 16;

template <class V>
float sum_lanes(typename V::F x) {
  float lane[kLanes];
  V::store(lane, x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

template <class V>
float max_lanes(typename V::F x) {
  float lane[kLanes];
  V::store(lane, x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
  }
  return lane[0];
}

// max |x| of 32 values, NaN if one of them is: as integers, magnitudes compare like their values,
// and NaN is above infinity.
template <class V>
float max_magnitude(typename V::F low, typename V::F high) {
  const int32_t bits = V::max_of(V::max_int(V::as_int(V::abs(low)), V::as_int(V::abs(high))));
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  return largest;
}

// exp(x) by 2^n · p(r), |r| <= ln2/2; relative error below 2e-7. Clamped to [-86, 88].
template <class V>
typename V::F exp(typename V::F x) {
  using F = typename V::F;
  x = V::min(V::max(x, V::set1(-86.0f)), V::set1(88.0f));
  const F magic = V::set1(0x1.8p23f);  // adding it rounds to an integer in the low mantissa bits
  const F shifted = V::fma(x, V::set1(0x1.715476p+0f), magic);
  const F n = V::sub(shifted, magic);
  F r = V::fma(n, V::set1(-0x1.62e400p-1f), x);  // ln 2 in two parts
  r = V::fma(n, V::set1(-0x1.7f7d1cp-20f), r);
  F p = V::set1(1.0f / 720);  // Taylor: the remainder at ln2/2 is below 1.3e-7
  p = V::fma(p, r, V::set1(1.0f / 120));
  p = V::fma(p, r, V::set1(1.0f / 24));
  p = V::fma(p, r, V::set1(1.0f / 6));
  p = V::fma(p, r, V::set1(0.5f));
  p = V::fma(p, r, V::set1(1.0f));
  p = V::fma(p, r, V::set1(1.0f));
  return V::scale_by_power_of_two(p, shifted);
}

// What is added to weights of a type, so that they are stored without a sign.
template <class V>
constexpr int weight_offset(TensorType type) {
  const StripLayout layout = strip_layout(type);
  if (layout.bits == 0 || layout.has_min) return 0;
  return layout.bits < 8 || V::kUnsignedBytes ? 1 << (layout.bits - 1) : 0;
}

// sum[c] += rows from `row` on of one strip x column c, as many as V has lanes, blocks in order: an
// exact integer dot product, then one fma with d·scale (and for *_1 types one with m·scaled_sum).
template <class V, TensorType kType, int kColumns>
void quantized_columns(const StripProduct& p, int row, int first, typename V::F (&sum)[kColumns]) {
  using F = typename V::F;
  constexpr StripLayout layout = strip_layout(kType);
  constexpr size_t kAhead = 4 * layout.record_bytes();
  const auto* x = reinterpret_cast<const ActivationBlock*>(p.columns) + first;
  for (int b = 0; b < p.n_blocks; ++b, x += p.tile_width) {
    const std::byte* record = p.strip + static_cast<size_t>(b / 2) * layout.record_bytes();
    const size_t half = b % 2;
    if (half == 0) {
      for (size_t i = 0; i < layout.record_bytes(); i += 64) {
        __builtin_prefetch(record + kAhead + i, 0, 3);
      }
    }
    const auto quads = V::template unpack<layout.bits>(
        record + layout.qs_offset() + half * layout.qs_bytes() + 4 * row,
        record + layout.qh_offset() + half * 64 + 4 * row);
    const auto* scales = reinterpret_cast<const uint16_t*>(record + half * 32) + row;
    const F d = V::load_half(scales);
    F m{};
    if constexpr (layout.has_min) m = V::load_half(scales + layout.m_offset() / 2);
    constexpr int kGroup = kColumns % 4 == 0 ? 4 : kColumns;  // none waits for another's latency
#pragma GCC unroll 16                                         // keeps every sum in a register
    for (int at = 0; at < kColumns; at += kGroup) {
      const ActivationBlock* group = x + at;
      typename V::I dot[kGroup];
#pragma GCC unroll 4
      for (int c = 0; c < kGroup; ++c) {
        dot[c] = V::set1_int(weight_offset<V>(kType) != 0 ? group[c].start : 0);
      }
      V::template add_dots<layout.bits>(dot, quads, group);
#pragma GCC unroll 4
      for (int c = 0; c < kGroup; ++c) {
        F& total = sum[at + c];
        total = V::fma(V::to_float(dot[c]), V::mul(d, V::set1(group[c].scale)), total);
        if constexpr (layout.has_min) {
          total = V::fma(m, V::set1(group[c].scaled_sum), total);
        }
      }
    }
  }
}

// The same for unquantized weights: one fma per k.
template <class V, TensorType kType, int kColumns>
void float_columns(const StripProduct& p, int row, int first, typename V::F (&sum)[kColumns]) {
  constexpr size_t kElement = kType == TensorType::F16 ? 2 : 4;
  const float* x = reinterpret_cast<const float*>(p.columns) + static_cast<size_t>(first) * kBlock;
  const std::byte* weights = p.strip + row * kElement;
  for (int b = 0; b < p.n_blocks; ++b, x += static_cast<size_t>(p.tile_width) * kBlock) {
    for (int k = 0; k < kBlock; ++k, weights += kStripRows * kElement) {
      typename V::F w;
      if constexpr (kType == TensorType::F16) {
        w = V::load_half(reinterpret_cast<const uint16_t*>(weights));
      } else {
        w = V::load(reinterpret_cast<const float*>(weights));
      }
#pragma GCC unroll 16
      for (int c = 0; c < kColumns; ++c) sum[c] = V::fma(w, V::set1(x[c * kBlock + k]), sum[c]);
    }
  }
}

template <class V, TensorType kType, int kColumns>
void strip_columns(const StripProduct& p, int first) {
  for (int row = 0; row < kStripRows; row += V::kLanes) {
    typename V::F sum[kColumns];
    for (auto& s : sum) s = V::set1(0.0f);
    if constexpr (is_quantized(kType)) {
      quantized_columns<V, kType, kColumns>(p, row, first, sum);
    } else {
      float_columns<V, kType, kColumns>(p, row, first, sum);
    }
    for (int c = 0; c < kColumns; ++c) {
      float* out = p.out + static_cast<size_t>(first + c) * p.out_stride + row;
      if (p.bias != nullptr) sum[c] = V::add(sum[c], V::load(p.bias + row));
      if (p.accumulate) sum[c] = V::add(sum[c], V::load(out));
      V::store(out, sum[c]);
    }
  }
}

template <class V, TensorType kType>
void strip_product(const StripProduct& p) {
  int c = 0;
  if constexpr (V::kMaxColumns >= 16) {
    for (; c + 16 <= p.n_columns; c += 16) strip_columns<V, kType, 16>(p, c);
  }
  if constexpr (V::kMaxColumns >= 8) {
    for (; c + 8 <= p.n_columns; c += 8) strip_columns<V, kType, 8>(p, c);
  }
  for (; c + 4 <= p.n_columns; c += 4) strip_columns<typename V::Rows, kType, 4>(p, c);
  for (; c + 2 <= p.n_columns; c += 2) strip_columns<V, kType, 2>(p, c);
  for (; c < p.n_columns; ++c) strip_columns<V, kType, 1>(p, c);
}

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

// Calls visit(first, integral_constant of how many) until every head has been visited.
template <class V, class Visit>
void for_heads(int n_heads, const Visit& visit) {
  constexpr int kHeads = V::kMaxColumns >= 8 ? 8 : 4;
  int h = 0;
  for (; h + kHeads <= n_heads; h += kHeads) visit(h, std::integral_constant<int, kHeads>{});
  for (; h < n_heads; ++h) visit(h, std::integral_constant<int, 1>{});
}

// scores[h][i] = q[h] · key i, for the positions of some tiles.
template <class V, int kHeads, int kTiles>
void score_tiles(const uint16_t* keys, const float* q, int head_dim, float* scores, size_t stride) {
  typename V::F sum[kHeads][kTiles];
  for (auto& head : sum) {
    for (auto& s : head) s = V::set1(0.0f);
  }
  for (int d = 0; d < head_dim; ++d) {
    typename V::F key[kTiles];
    for (int t = 0; t < kTiles; ++t) {
      key[t] = V::load_half(keys + static_cast<size_t>(t * head_dim + d) * kLanes);
    }
#pragma GCC unroll 8
    for (int h = 0; h < kHeads; ++h) {
      const auto x = V::set1(q[h * head_dim + d]);
#pragma GCC unroll 2
      for (int t = 0; t < kTiles; ++t) sum[h][t] = V::fma(key[t], x, sum[h][t]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int t = 0; t < kTiles; ++t) V::store(scores + h * stride + t * kLanes, sum[h][t]);
  }
}

template <class V>
void attention_scores(const Attention& a, int first_page, int end_page) {
  const size_t stride = a.score_stride(), tile_elements = static_cast<size_t>(a.head_dim) * kLanes;
  for (int page = first_page; page < end_page; ++page) {
    const uint16_t* keys = a.pages[page] + a.k_offset;
    const uint16_t* ahead = page + 1 < end_page ? a.pages[page + 1] + a.k_offset : keys;
    for (size_t i = 0; i < 2 * tile_elements; i += 32) __builtin_prefetch(ahead + i, 0, 3);
    float* scores = a.scores() + static_cast<size_t>(page) * kPagePositions;
    for (int tile = 0; tile < kPagePositions / kLanes; tile += V::kTiles) {
      for_heads<V>(a.n_heads, [&](int h, auto n) {
        score_tiles<V, n(), V::kTiles>(keys + tile * tile_elements, a.q + h * a.head_dim,
                                       a.head_dim, scores + h * stride + tile * kLanes, stride);
      });
    }
  }
}

// Exponentials in the place of scores; what they are divided by waits until the values are summed.
template <class V>
void attention_weights(const Attention& a, int first_head, int end_head) {
  using F = typename V::F;
  const size_t stride = a.score_stride();
  for (int h = first_head; h < end_head; ++h) {
    float* row = a.scores() + h * stride;
    // Lanes past the last position hold whatever the page held before: they never count.
    for (size_t i = a.n_positions; i < stride; ++i) row[i] = -3e38f;
    F largest = V::load(row);
    for (size_t i = kLanes; i < stride; i += kLanes) largest = V::max(largest, V::load(row + i));
    const F shift = V::set1(max_lanes<V>(largest));
    for (size_t i = 0; i < stride; i += kLanes) {
      const F score = V::load(row + i);  // times zero: exp alone would make a number of NaN
      V::store(row + i, V::fma(score, V::set1(0.0f), exp<V>(V::sub(score, shift))));
    }
    for (size_t i = a.n_positions; i < stride; ++i) row[i] = 0.0f;
    F sum = V::set1(0.0f);
    for (size_t i = 0; i < stride; i += kLanes) sum = V::add(sum, V::load(row + i));
    a.inverse_sums()[h] = 1.0f / sum_lanes<V>(sum);
  }
}

// sums[h] += weight j · value j, for the n positions of one page, in order.
template <class V, int kHeads, int kTiles>
void add_values(const uint16_t* values, int row_elements, int n, const float* weights,
                size_t stride, float* sums) {
  typename V::F sum[kHeads][kTiles];
  for (int h = 0; h < kHeads; ++h) {
    for (int t = 0; t < kTiles; ++t) sum[h][t] = V::load(sums + h * row_elements + t * kLanes);
  }
  for (int j = 0; j < n; ++j, values += row_elements) {
    typename V::F value[kTiles];
    for (int t = 0; t < kTiles; ++t) value[t] = V::load_half(values + t * kLanes);
#pragma GCC unroll 8
    for (int h = 0; h < kHeads; ++h) {
      const auto weight = V::set1(weights[h * stride + j]);
#pragma GCC unroll 2
      for (int t = 0; t < kTiles; ++t) sum[h][t] = V::fma(value[t], weight, sum[h][t]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int t = 0; t < kTiles; ++t) V::store(sums + h * row_elements + t * kLanes, sum[h][t]);
  }
}

template <class V>
void attention_means(const Attention& a, int first_dim, int end_dim) {
  const size_t stride = a.score_stride(), row = a.v_row_elements;
  for (int h = 0; h < a.n_heads; ++h) {
    for (int d = first_dim; d < end_dim; d += kLanes) {
      V::store(a.sums() + h * row + d, V::set1(0.0f));
    }
  }
  for (int page = 0; page < a.n_pages(); ++page) {
    const uint16_t* values = a.pages[page] + a.v_offset;
    const uint16_t* ahead = page + 1 < a.n_pages() ? a.pages[page + 1] + a.v_offset : values;
    const int left = a.n_positions - page * kPagePositions;
    const int n = left < kPagePositions ? left : kPagePositions;
    for (int j = 0; j < n; ++j) {
      for (int d = first_dim; d < end_dim; d += 32) __builtin_prefetch(ahead + j * row + d, 0, 3);
    }
    const float* weights = a.scores() + static_cast<size_t>(page) * kPagePositions;
    const auto add = [&](int d, auto tiles) {
      for_heads<V>(a.n_heads, [&](int h, auto heads) {
        add_values<V, heads(), tiles()>(values + d, a.v_row_elements, n, weights + h * stride,
                                        stride, a.sums() + h * row + d);
      });
    };
    int d = first_dim;
    for (; d + V::kTiles * kLanes <= end_dim; d += V::kTiles * kLanes) {
      add(d, std::integral_constant<int, V::kTiles>{});
    }
    for (; d < end_dim; d += kLanes) add(d, std::integral_constant<int, 1>{});
  }
  const int end = end_dim < a.head_dim ? end_dim : a.head_dim;
  for (int h = 0; h < a.n_heads; ++h) {
    for (int d = first_dim; d < end; ++d) {
      a.out[h * a.head_dim + d] = a.sums()[h * row + d] * a.inverse_sums()[h];
    }
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
          {strip_product<V, TensorType::F32>, strip_product<V, TensorType::F16>,
           strip_product<V, TensorType::Q4_0>, strip_product<V, TensorType::Q4_1>,
           strip_product<V, TensorType::Q5_0>, strip_product<V, TensorType::Q5_1>,
           strip_product<V, TensorType::Q8_0>},
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
