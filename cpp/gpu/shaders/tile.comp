// Quantized weights · activations for many columns. A workgroup has 64 rows and 64 columns: two
// blocks of both are unpacked to shared memory, and each invocation multiplies 4 rows and 4 columns.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "weights.glsl"

layout(local_size_x = 256) in;
const uint SIZE = 64, STAGED = 2;

layout(push_constant) uniform Push {  // as in product.comp
  Words weights, columns;
  Floats bias, result;
  uint n_blocks, n_columns, column_words, n_strips, strip_words, result_stride, has_bias, accumulates;
};

shared uint staged_weights[STAGED][8][SIZE], staged_columns[STAGED][8][SIZE];
shared uint staged_meta[STAGED][SIZE];
shared float staged_d[STAGED][PARTS][SIZE], staged_m[STAGED][HAS_MIN ? PARTS : 1][SIZE];

void stage(uint block) {  // STAGED blocks from this one on; half of the invocations for each side
  uint id = gl_LocalInvocationID.x, i = id % SIZE, s = id / SIZE % STAGED, b = block + s;
  if (b >= n_blocks) return;
  if (id < STAGED * SIZE) {
    uint row = min(gl_WorkGroupID.x * SIZE + i, n_strips * 16 - 1), lane = row % 16;
    uint begin = b / GROUP_BLOCKS * GROUP_BLOCKS, n = min(GROUP_BLOCKS, n_blocks - begin);
    uint at = row / 16 * strip_words + begin / GROUP_BLOCKS * group_words();
    uint quads[8];
    float d[2], m[2];
    load_quads(weights, at + codes_at(n, b - begin) + lane, quads);
    load_scales(weights, at, n, b - begin, lane, d, m);
    [[unroll]] for (uint j = 0; j < 8; ++j) staged_weights[s][j][i] = quads[j];
    [[unroll]] for (uint part = 0; part < PARTS; ++part) {
      staged_d[s][part][i] = d[part];
      if (HAS_MIN) staged_m[s][part][i] = m[part];
    }
  } else {
    uint column = min(gl_WorkGroupID.y * SIZE + i, n_columns - 1) * column_words;
    Vectors vectors = Vectors(columns);
    [[unroll]] for (uint j = 0; j < 2; ++j) {
      uvec4 q = vectors.at[column / 4 + b * 2 + j];
      [[unroll]] for (uint k = 0; k < 4; ++k) staged_columns[s][4 * j + k][i] = q[k];
    }
    staged_meta[s][i] = columns.at[column + meta_at(n_blocks) + b];
  }
}

void main() {
  uint row = gl_LocalInvocationID.x % 16, column = gl_LocalInvocationID.x / 16;  // and + 16, …
  float total[4][4], sum[4][4];
  [[unroll]] for (uint r = 0; r < 4; ++r) {
    [[unroll]] for (uint c = 0; c < 4; ++c) total[r][c] = sum[r][c] = 0.0;
  }
  for (uint block = 0; block < n_blocks; block += STAGED) {
    barrier();
    stage(block);
    barrier();
    for (uint s = 0; s < STAGED && block + s < n_blocks; ++s) {
      uint meta[4];
      [[unroll]] for (uint c = 0; c < 4; ++c) meta[c] = staged_meta[s][column + 16 * c];
      [[unroll]] for (uint part = 0; part < PARTS; ++part) {
        int dot[4][4];
        [[unroll]] for (uint c = 0; c < 4; ++c) {
          [[unroll]] for (uint r = 0; r < 4; ++r) dot[r][c] = -OFFSET * sum_of_block(meta[c], part);
        }
        for (uint j = part * 4; j < part * 4 + 8 / PARTS; ++j) {
          uint q[4];
          [[unroll]] for (uint c = 0; c < 4; ++c) q[c] = staged_columns[s][j][column + 16 * c];
          [[unroll]] for (uint r = 0; r < 4; ++r) {
            uint quad = staged_weights[s][j][row + 16 * r];
            [[unroll]] for (uint c = 0; c < 4; ++c) dot[r][c] += signed_dot(quad, q[c], 0);
          }
        }
        for (uint r = 0; r < 4; ++r) {
          uint d = bits_of(staged_d[s][part][row + 16 * r]);
          for (uint c = 0; c < 4; ++c) {
            float scale = of_bits(d + ((meta[c] & 255u) << 23));
            sum[r][c] = fused(float(dot[r][c]), scale, sum[r][c]);
          }
        }
      }
      if (HAS_MIN) {
        [[unroll]] for (uint part = 0; part < PARTS; ++part) {
          for (uint r = 0; r < 4; ++r) {
            float m = staged_m[s][part][row + 16 * r];
            for (uint c = 0; c < 4; ++c) {
              float q_sum = float(sum_of_block(meta[c], part) << (meta[c] & 255u));
              sum[r][c] = fused(m, q_sum, sum[r][c]);
            }
          }
        }
      }
    }
    if ((block + STAGED) % GROUP_BLOCKS != 0 && block + STAGED < n_blocks) continue;
    for (uint c = 0; c < 4; ++c) {
      uint from = min(gl_WorkGroupID.y * SIZE + column + 16 * c, n_columns - 1) * column_words;
      float scale = of_bits(columns.at[from + scales_at(n_blocks) + block / GROUP_BLOCKS]);
      for (uint r = 0; r < 4; ++r) {
        total[r][c] = fused(sum[r][c], scale, total[r][c]);
        sum[r][c] = 0.0;
      }
    }
  }
  for (uint c = 0; c < 4; ++c) {
    for (uint r = 0; r < 4; ++r) {
      uint to_row = gl_WorkGroupID.x * SIZE + row + 16 * r;
      uint to_column = gl_WorkGroupID.y * SIZE + column + 16 * c;
      if (to_row >= n_strips * 16 || to_column >= n_columns) continue;
      float value = total[r][c];
      if (has_bias != 0) value = value + bias.at[to_row];
      uint to = to_column * result_stride + to_row;
      if (accumulates != 0) value = value + result.at[to];
      result.at[to] = value;
    }
  }
}
