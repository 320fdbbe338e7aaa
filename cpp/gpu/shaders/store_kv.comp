// Writes keys and values of every column to its page, as halves. A workgroup has a column.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "attention.glsl"
layout(local_size_x = 256) in;

void main() {
  uint c = gl_WorkGroupID.x, n = n_kv_heads * head_dim;
  uint key = c * qkv_stride + n_heads * head_dim, value = key + n;
  Column column = columns.at[c];
  uint in_page = column.position % PAGE;
  Words page = Words(pages.at[column.first_page + column.position / PAGE]);
  // Keys of positions 2i and 2i + 1 share words. The first writes both, if both are in this step.
  bool is_odd = in_page % 2 == 1;
  bool is_second = is_odd && c > 0 && columns.at[c - 1].first_page == column.first_page;
  bool has_second =
      !is_odd && c + 1 < n_columns && columns.at[c + 1].first_page == column.first_page;
  for (uint i = gl_LocalInvocationID.x; i < n / 2; i += 256) {
    uint head = 2 * i / head_dim, d = 2 * i % head_dim;
    page.at[values_at(head) + in_page * v_row_words + d / 2] =
        to_half(qkv.at[value + 2 * i]) | to_half(qkv.at[value + 2 * i + 1]) << 16;
    if (is_second) continue;
    for (uint k = 0; k < 2; ++k) {
      uint at = keys_at(head) + (in_page / 16 * head_dim + d + k) * 8 + in_page % 16 / 2;
      uint one = to_half(qkv.at[key + 2 * i + k]), pair = page.at[at];
      if (has_second) {
        pair = one | to_half(qkv.at[key + qkv_stride + 2 * i + k]) << 16;
      } else {
        pair = is_odd ? pair & 0xffffu | one << 16 : pair & 0xffff0000u | one;
      }
      page.at[at] = pair;
    }
  }
}
