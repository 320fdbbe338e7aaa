// Weighted sums of values of a span of 512 positions: (span, invocations, column). An invocation
// has two dimensions of 4 heads of one key head.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "attention.glsl"
layout(local_size_x = 256) in;
const uint HEADS = 4;

void main() {
  uint c = gl_WorkGroupID.z, span = gl_WorkGroupID.x, per_kv = n_heads / n_kv_heads;
  uint item = gl_WorkGroupID.y * 256 + gl_LocalInvocationID.x, pairs = head_dim / 2;
  uint d = item % pairs, fours = (per_kv + HEADS - 1) / HEADS;
  uint kv_head = item / pairs / fours, first = item / pairs % fours * HEADS;
  Column column = columns.at[c];
  uint begin = span * SPAN, end = min(begin + SPAN, column.position + 1);
  if (begin >= end || kv_head >= n_kv_heads) return;
  uint row[HEADS];
  float sum[HEADS][2];
  [[unroll]] for (uint h = 0; h < HEADS; ++h) {
    row[h] = c * n_heads + kv_head * per_kv + min(first + h, per_kv - 1);
    sum[h][0] = sum[h][1] = 0.0;
  }
  for (uint i = begin; i < end; i += PAGE) {
    Words page = Words(pages.at[column.first_page + i / PAGE]);
    uint n = min(PAGE, end - i);
    for (uint k = 0; k < n; ++k) {
      uint pair = page.at[values_at(kv_head) + k * v_row_words + d];
      float low = low_half(pair), high = high_half(pair);
      [[unroll]] for (uint h = 0; h < HEADS; ++h) {
        float weight = scores.at[row[h] * score_stride + i + k];
        sum[h][0] = fused(low, weight, sum[h][0]);
        sum[h][1] = fused(high, weight, sum[h][1]);
      }
    }
  }
  [[unroll]] for (uint h = 0; h < HEADS; ++h) {
    if (first + h >= per_kv) break;
    uint head = kv_head * per_kv + first + h;
    uint at = ((c * n_spans + span) * n_heads + head) * head_dim + 2 * d;
    sums.at[at] = sum[h][0];
    sums.at[at + 1] = sum[h][1];
  }
}
