// Attention of one position's query heads, over a vocabulary V (kernels_impl.hpp).
#pragma once
#include <type_traits>

#include "kernels/lanes_impl.hpp"

namespace starchat {
namespace {

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

// Exponentials in the place of scores, which are divided by the root of head_dim here; what their
// sum divides waits until the values are summed.
template <class V>
void attention_weights(const Attention& a, int first_head, int end_head) {
  using F = typename V::F;
  const size_t stride = a.score_stride();
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(a.head_dim));
  for (int h = first_head; h < end_head; ++h) {
    float* row = a.scores() + h * stride;
    // Lanes past the last position hold whatever the page held before: they never count.
    for (size_t i = a.n_positions; i < stride; ++i) row[i] = -3e38f;
    F largest = V::load(row);
    for (size_t i = kLanes; i < stride; i += kLanes) largest = V::max(largest, V::load(row + i));
    const F shift = V::set1(-scale * max_lanes<V>(largest));
    for (size_t i = 0; i < stride; i += kLanes) {
      const F score = V::load(row + i);  // times zero: exp alone would make a number of NaN
      V::store(row + i, V::fma(score, V::set1(0.0f), exp<V>(V::fma(score, V::set1(scale), shift))));
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
    const int n = smaller(a.n_positions - page * kPagePositions, kPagePositions);
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
  const int end = smaller(end_dim, a.head_dim);
  for (int h = 0; h < a.n_heads; ++h) {
    const float* sums = a.sums() + h * row;
    const float inverse = a.inverse_sums()[h];
    float* out = a.out + h * a.head_dim;
    int d = first_dim;
    for (; d + kLanes <= end; d += kLanes) {
      V::store(out + d, V::mul(V::load(sums + d), V::set1(inverse)));
    }
    for (; d < end; ++d) out[d] = sums[d] * inverse;
  }
}

}  // namespace
}  // namespace starchat
