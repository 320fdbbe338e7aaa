// Weights · activations for 1 to 16 columns. A workgroup has two strips: invocation (row, group)
// adds one group of 512 weights, then the groups of a round are added in order.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "weights.glsl"

layout(constant_id = 4) const uint COLUMNS = 1;  // at most that many
layout(local_size_x = 32, local_size_y = 8) in;
const uint ROUND = 8;

layout(push_constant) uniform Push {
  Words weights, columns;  // columns: quantized or floats, (n_columns, column_words)
  Floats bias, result;     // (rows), (n_columns, result_stride)
  uint n_blocks, n_columns, column_words, n_strips, strip_words, result_stride, has_bias, accumulates;
};

shared float group_sums[ROUND][COLUMNS][32];

float float_weight(uint strip, uint k, uint lane) {
  if (BITS == 32) return of_bits(weights.at[strip + k * 16 + lane]);
  uint half_bits = weights.at[strip + k * 8 + lane / 2] >> 16 * (lane & 1u) & 0xffffu;
  return CODES == UPPER_HALF ? of_bits(half_bits << 16) : of_half(half_bits);
}

void main() {
  uint lane = gl_LocalInvocationID.x % 16, row = gl_WorkGroupID.x * 32 + gl_LocalInvocationID.x;
  uint strip = row / 16 * strip_words, n_groups = (n_blocks + GROUP_BLOCKS - 1) / GROUP_BLOCKS;
  bool is_row = row < n_strips * 16;
  float total[(COLUMNS + ROUND - 1) / ROUND];
  [[unroll]] for (uint i = 0; i < total.length(); ++i) total[i] = 0.0;
  for (uint first = 0; first < n_groups; first += ROUND) {
    uint group = first + gl_LocalInvocationID.y, begin = group * GROUP_BLOCKS;
    float sum[COLUMNS];
    [[unroll]] for (uint c = 0; c < COLUMNS; ++c) sum[c] = 0.0;
    if (is_row && group < n_groups) {
      uint n = min(GROUP_BLOCKS, n_blocks - begin);
      if (IS_FLOAT) {
        for (uint k = begin * BLOCK; k < (begin + n) * BLOCK; ++k) {
          float weight = float_weight(strip, k, lane);
          [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
            uint column = min(c, n_columns - 1);
            sum[c] = fused(weight, of_bits(columns.at[column * column_words + k]), sum[c]);
          }
        }
      } else {
        uint at = strip + group * group_words();
        for (uint b = 0; b < n; ++b) {
          uint quads[8];
          float d[2], m[2];
          load_quads(weights, at + codes_at(n, b) + lane, quads);
          load_scales(weights, at, n, b, lane, d, m);
          [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
            uint column = min(c, n_columns - 1) * column_words, block = begin + b;
            Vectors vectors = Vectors(columns);
            uvec4 q[2];
            q[0] = vectors.at[column / 4 + block * 2];
            q[1] = vectors.at[column / 4 + block * 2 + 1];
            sum[c] = add_block(sum[c], quads, d, m, q, columns.at[column + meta_at(n_blocks) + block]);
          }
        }
      }
    }
    [[unroll]] for (uint c = 0; c < COLUMNS; ++c) {
      group_sums[gl_LocalInvocationID.y][c][gl_LocalInvocationID.x] = sum[c];
    }
    barrier();
    [[unroll]] for (uint i = 0; i < total.length(); ++i) {
      uint c = gl_LocalInvocationID.y + i * ROUND;
      if (c >= COLUMNS || c >= n_columns) break;
      uint scales = c * column_words + scales_at(n_blocks);
      for (uint g = 0; g < ROUND && first + g < n_groups; ++g) {
        float part = group_sums[g][c][gl_LocalInvocationID.x];
        total[i] = IS_FLOAT ? total[i] + part
                            : fused(part, of_bits(columns.at[scales + first + g]), total[i]);
      }
    }
    barrier();
  }
  [[unroll]] for (uint i = 0; i < total.length(); ++i) {
    uint c = gl_LocalInvocationID.y + i * ROUND;
    if (!is_row || c >= COLUMNS || c >= n_columns) break;
    float value = total[i];
    if (has_bias != 0) value = value + bias.at[row];
    if (accumulates != 0) value = value + result.at[c * result_stride + row];
    result.at[c * result_stride + row] = value;
  }
}
