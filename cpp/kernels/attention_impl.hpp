// Attention of the query heads of one position. V: the SIMD operations (kernels_impl.hpp).
#pragma once
#include <type_traits>

#include "kernels/lanes_impl.hpp"

namespace starchat {
namespace {

// Calls visit(first_head, integral_constant of the number of heads) until all heads are done.
template <class V, class Visit>
void for_heads(int n_heads, const Visit& visit) {
  constexpr int kHeads = V::kMaxColumns >= 8 ? 8 : 4;
  int h = 0;
  for (; h + kHeads <= n_heads; h += kHeads) visit(h, std::integral_constant<int, kHeads>{});
  for (; h < n_heads; ++h) visit(h, std::integral_constant<int, 1>{});
}

// scores[h][i] = q[h] · key i, for the positions of kStrips strips (head_dim, 16 positions).
template <class V, int kHeads, int kStrips>
void score_strips(const uint16_t* keys, const float* q, int head_dim, float* scores,
                  size_t stride) {
  typename V::F sum[kHeads][kStrips];
  for (auto& head : sum) {
    for (auto& s : head) s = V::set1(0.0f);
  }
  for (int d = 0; d < head_dim; ++d) {
    typename V::F key[kStrips];
    for (int s = 0; s < kStrips; ++s) {
      key[s] = V::load_half(keys + static_cast<size_t>(s * head_dim + d) * kLanes);
    }
#pragma GCC unroll 8
    for (int h = 0; h < kHeads; ++h) {
      const auto x = V::set1(q[h * head_dim + d]);
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) sum[h][s] = V::fma(key[s], x, sum[h][s]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int s = 0; s < kStrips; ++s) V::store(scores + h * stride + s * kLanes, sum[h][s]);
  }
}

template <class V>
void attention_scores(const Attention& a, int first_page, int end_page) {
  const size_t stride = a.score_stride();
  const size_t strip_elements = static_cast<size_t>(a.head_dim) * kLanes;
  for (int page = first_page; page < end_page; ++page) {
    const uint16_t* keys = a.page(page) + a.k_offset;
    const uint16_t* ahead = page + 1 < end_page ? a.page(page + 1) + a.k_offset : keys;
    for (size_t i = 0; i < 2 * strip_elements; i += 32) __builtin_prefetch(ahead + i, 0, 3);
    float* scores = a.scores() + static_cast<size_t>(page) * kPagePositions;
    for (int strip = 0; strip < kPagePositions / kLanes; strip += V::kVectors) {
      for_heads<V>(a.n_heads, [&](int h, auto n) {
        score_strips<V, n(), V::kVectors>(keys + strip * strip_elements, a.q + h * a.head_dim,
                                          a.head_dim, scores + h * stride + strip * kLanes, stride);
      });
    }
  }
}

// Replaces scores s by the numerators of softmax, exp(s/√head_dim - max). attention_means divides
// the weighted sums of values by the sum of the numerators.
template <class V>
void attention_weights(const Attention& a, int first_head, int end_head) {
  using F = typename V::F;
  const size_t stride = a.score_stride();
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(a.head_dim));
  for (int h = first_head; h < end_head; ++h) {
    float* row = a.scores() + h * stride;
    // Positions after the last one are unused rows of its page: their weights must be zero.
    for (size_t i = a.n_positions; i < stride; ++i) row[i] = -3e38f;
    F largest = V::load(row);
    for (size_t i = kLanes; i < stride; i += kLanes) largest = V::max(largest, V::load(row + i));
    const F shift = V::set1(-scale * max_lanes<V>(largest));
    for (size_t i = 0; i < stride; i += kLanes) {
      const F score =
          V::load(row + i);  // score · 0 is NaN for NaN; exp's clamp alone would hide it
      V::store(row + i, V::fma(score, V::set1(0.0f), exp<V>(V::fma(score, V::set1(scale), shift))));
    }
    for (size_t i = a.n_positions; i < stride; ++i) row[i] = 0.0f;
    F sum = V::set1(0.0f);
    for (size_t i = 0; i < stride; i += kLanes) sum = V::add(sum, V::load(row + i));
    a.inverse_sums()[h] = 1.0f / sum_lanes<V>(sum);
  }
}

// sums[h] += weight j · value j, for the n positions of one page, in order; kVectors · 16 elements.
template <class V, int kHeads, int kVectors>
void add_values(const uint16_t* values, int row_elements, int n, const float* weights,
                size_t stride, float* sums) {
  typename V::F sum[kHeads][kVectors];
  for (int h = 0; h < kHeads; ++h) {
    for (int i = 0; i < kVectors; ++i) sum[h][i] = V::load(sums + h * row_elements + i * kLanes);
  }
  for (int j = 0; j < n; ++j, values += row_elements) {
    typename V::F value[kVectors];
    for (int i = 0; i < kVectors; ++i) value[i] = V::load_half(values + i * kLanes);
#pragma GCC unroll 8
    for (int h = 0; h < kHeads; ++h) {
      const auto weight = V::set1(weights[h * stride + j]);
#pragma GCC unroll 2
      for (int i = 0; i < kVectors; ++i) sum[h][i] = V::fma(value[i], weight, sum[h][i]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int i = 0; i < kVectors; ++i) V::store(sums + h * row_elements + i * kLanes, sum[h][i]);
  }
}

// out (+)= weighted sums of values of the pages first_page .. end_page-1, a span. The sums of the
// last span complete out, which is then divided by the sum of the weights.
template <class V>
void add_span(const Attention& a, int first_page, int end_page, int first_dim, int end_dim) {
  const size_t stride = a.score_stride(), row = a.v_row_elements;
  for (int h = 0; h < a.n_heads; ++h) {
    for (int d = first_dim; d < end_dim; d += kLanes) {
      V::store(a.sums() + h * row + d, V::set1(0.0f));
    }
  }
  for (int page = first_page; page < end_page; ++page) {
    const uint16_t* values = a.page(page) + a.v_offset;
    const uint16_t* ahead = page + 1 < a.n_pages() ? a.page(page + 1) + a.v_offset : values;
    const int n = smaller(a.n_positions - page * kPagePositions, kPagePositions);
    for (int j = 0; j < n; ++j) {
      for (int d = first_dim; d < end_dim; d += 32) __builtin_prefetch(ahead + j * row + d, 0, 3);
    }
    const float* weights = a.scores() + static_cast<size_t>(page) * kPagePositions;
    const auto add = [&](int d, auto vectors) {
      for_heads<V>(a.n_heads, [&](int h, auto heads) {
        add_values<V, heads(), vectors()>(values + d, a.v_row_elements, n, weights + h * stride,
                                          stride, a.sums() + h * row + d);
      });
    };
    int d = first_dim;
    for (; d + V::kVectors * kLanes <= end_dim; d += V::kVectors * kLanes) {
      add(d, std::integral_constant<int, V::kVectors>{});
    }
    for (; d < end_dim; d += kLanes) add(d, std::integral_constant<int, 1>{});
  }
  const bool is_first = first_page == 0, is_last = end_page == a.n_pages();
  const int end = smaller(end_dim, a.head_dim);
  for (int h = 0; h < a.n_heads; ++h) {
    const float* sums = a.sums() + h * row;
    const float factor = is_last ? a.inverse_sums()[h] : 1.0f;
    float* out = a.out + h * a.head_dim;
    int d = first_dim;
    for (; d + kLanes <= end; d += kLanes) {
      const auto before = is_first ? V::set1(0.0f) : V::load(out + d);
      V::store(out + d, V::mul(V::add(before, V::load(sums + d)), V::set1(factor)));
    }
    for (; d < end; ++d) out[d] = ((is_first ? 0.0f : out[d]) + sums[d]) * factor;
  }
}

template <class V>
void attention_means(const Attention& a, int first_dim, int end_dim) {
  for (int page = 0; page < a.n_pages(); page += kSpanPages) {
    add_span<V>(a, page, smaller(page + kSpanPages, a.n_pages()), first_dim, end_dim);
  }
}

}  // namespace
}  // namespace starchat
