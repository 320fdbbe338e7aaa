// scores = q · keys. A workgroup has 256 positions of 8 heads of one key head, of a column.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "attention.glsl"
layout(local_size_x = 256) in;
const uint HEADS = 4;  // of an invocation, for two positions

void main() {
  uint c = gl_WorkGroupID.z, per_kv = n_heads / n_kv_heads, chunks = (per_kv + 7) / 8;
  uint kv_head = gl_WorkGroupID.y / chunks;
  uint first = gl_WorkGroupID.y % chunks * 8 + gl_LocalInvocationID.x / 128 * HEADS;
  uint position = gl_WorkGroupID.x * 256 + gl_LocalInvocationID.x % 128 * 2, in_page = position % PAGE;
  Column column = columns.at[c];
  if (position > column.position || first >= per_kv) return;
  Words page = Words(pages.at[column.first_page + position / PAGE]);
  uint key = keys_at(kv_head) + in_page / 16 * head_dim * 8 + in_page % 16 / 2;
  uint q[HEADS];
  float sum[HEADS][2];
  [[unroll]] for (uint h = 0; h < HEADS; ++h) {
    uint head = kv_head * per_kv + min(first + h, per_kv - 1);
    q[h] = c * qkv_stride + head * head_dim;
    sum[h][0] = sum[h][1] = 0.0;
  }
  for (uint d = 0; d < head_dim; ++d) {
    uint pair = page.at[key + d * 8];
    float low = low_half(pair), high = high_half(pair);
    [[unroll]] for (uint h = 0; h < HEADS; ++h) {
      float x = qkv.at[q[h] + d];
      sum[h][0] = fused(low, x, sum[h][0]);
      sum[h][1] = fused(high, x, sum[h][1]);
    }
  }
  [[unroll]] for (uint h = 0; h < HEADS; ++h) {
    if (first + h >= per_kv) break;
    uint at = (c * n_heads + kv_head * per_kv + first + h) * score_stride + position;
    scores.at[at] = sum[h][0];
    scores.at[at + 1] = sum[h][1];
  }
}
