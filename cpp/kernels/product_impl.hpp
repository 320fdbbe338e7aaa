// Products of packed weights and tiles of activations, over a vocabulary V (kernels_impl.hpp).
#pragma once
#include "kernels/kernels.hpp"

namespace starchat {
namespace {

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

}  // namespace
}  // namespace starchat
