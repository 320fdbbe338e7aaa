// Columns of activations for a product: after a norm, gelu or the sum of attention's spans, either
// floats or quantized (quantize_group in cpp/kernels). A workgroup has two groups of a column.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = 1) const uint SOURCE = 0;
const uint NORM = 1, GELU = 2, SPANS = 3;
layout(constant_id = 2) const bool QUANTIZES = true;
layout(local_size_x = 256) in;

layout(push_constant) uniform Push {
  Floats x;            // (n_columns, x_stride); of spans: (n_columns, n_spans, n)
  Words result;        // (n_columns, result_stride)
  Floats gain, bias;   // of a norm; gain of spans: 1 / sums of weights (n_columns, n / head_dim)
  Words order;         // of the elements, where has_order
  Words indices;       // of the columns of x, where has_indices
  Columns columns;     // of spans
  uint n, x_stride, result_stride, has_order, has_indices;
  float eps;
  uint n_spans, head_dim;
};

shared uint values[256];
shared uint block_max[32];

// Element i is added in lane i mod 64, then halves of the lanes.
float sum_of_lanes(float lane) {
  uint i = gl_LocalInvocationID.x;
  if (i < 64) values[i] = bits_of(lane);
  for (uint width = 32; width > 0; width /= 2) {
    barrier();
    if (i < width) values[i] = bits_of(of_bits(values[i]) + of_bits(values[i + width]));
  }
  barrier();
  float sum = of_bits(values[0]);
  barrier();
  return sum;
}

float sum_of_spans(uint column, uint i) {
  float sum = 0.0;
  for (uint span = 0; span <= columns.at[column].position / SPAN; ++span) {
    sum = sum + x.at[(column * n_spans + span) * n + i];
  }
  return sum * gain.at[column * (n / head_dim) + i / head_dim];
}

float gelu(float v) {
  float cubic = fused(v * v, of_bits(0x3d372713u), 1.0);  // 0.044715
  float minus_2u = v * cubic * of_bits(0xbfcc422au);      // -1.5957691216
  return divided(v, 1.0 + exponential(minus_2u));
}

void main() {
  uint id = gl_LocalInvocationID.x, column = gl_WorkGroupID.y;
  uint first = (has_indices != 0 ? indices.at[column] : column) * x_stride;
  float mean = 0.0, inverse = 0.0;
  if (SOURCE == NORM) {
    float lane = 0.0;
    if (id < 64) {
      for (uint i = id; i < n; i += 64) lane = lane + x.at[first + i];
    }
    mean = divided(sum_of_lanes(lane), float(n));
    lane = 0.0;
    if (id < 64) {
      for (uint i = id; i < n; i += 64) {
        float centred = x.at[first + i] - mean;
        lane = fused(centred, centred, lane);
      }
    }
    inverse = divided(1.0, root(divided(sum_of_lanes(lane), float(n)) + eps));
  }
  uint in_group = id % 128, block = id / 8, begin = (gl_WorkGroupID.x * 2 + id / 128) * GROUP;
  uint at = begin + in_group * 4;
  float v[4];
  uint largest = 0;  // bits of absolute values have the order of the values; NaN is the largest
  for (uint k = 0; k < 4; ++k) {
    v[k] = 0.0;
    if (at < n) {
      uint i = has_order != 0 ? order.at[at + k] : at + k;
      float value = SOURCE == SPANS ? sum_of_spans(column, i) : x.at[first + i];
      if (SOURCE == NORM) value = fused((value - mean) * inverse, gain.at[i], bias.at[i]);
      if (SOURCE == GELU) value = gelu(value);
      v[k] = value;
      if (!QUANTIZES) result.at[column * result_stride + at + k] = bits_of(value);
    }
    largest = max(largest, bits_of(v[k]) & 0x7fffffffu);
  }
  if (!QUANTIZES) return;

  values[id] = largest;
  barrier();
  if (id % 8 == 0) {
    for (uint k = 1; k < 8; ++k) largest = max(largest, values[id + k]);
    block_max[block] = largest;
  }
  barrier();
  uint group_max = 0;
  for (uint b = 0; b < GROUP_BLOCKS; ++b) {
    group_max = max(group_max, block_max[block / GROUP_BLOCKS * GROUP_BLOCKS + b]);
  }
  bool is_finite = group_max <= 0x7f61b1e6u;           // 3e38
  bool is_used = is_finite && group_max >= 0x0da24260u;  // 1e-30: 127 / largest is finite
  float scale = 0.0, factor = 0.0;
  uint shift = min(group_max - block_max[block] >> 23, 15u);
  if (is_used) {
    scale = divided(of_bits(group_max), 127.0) * of_bits(0x38000000u);  // 2^-15
    factor = divided(127.0, of_bits(group_max)) * float(1u << shift);
  }
  uint q = 0;
  int sum = 0;
  if (is_used) {
    for (uint k = 0; k < 4; ++k) {
      int rounded = bitfieldExtract(int(bits_of(v[k] * factor + 12582912.0)), 0, 8);  // 1.5 · 2^23
      q |= (uint(rounded) & 255u) << 8 * k;
      sum += rounded;
    }
  }
  barrier();
  values[id] = uint(sum);
  barrier();
  if (at >= n) return;
  uint n_blocks = n / BLOCK, to = column * result_stride;
  result.at[to + at / 4] = q;
  if (id % 8 == 0) {
    uint parts[2];
    for (uint part = 0; part < 2; ++part) {
      uint k = id + 4 * part;
      parts[part] = values[k] + values[k + 1] + values[k + 2] + values[k + 3] & 0xfffu;
    }
    result.at[to + meta_at(n_blocks) + at / BLOCK] =
        (is_finite ? 15u - shift : 0u) | parts[0] << 8 | parts[1] << 20;
  }
  if (in_group == 0) {
    result.at[to + scales_at(n_blocks) + begin / GROUP] = is_finite ? bits_of(scale) : 0x7fc00000u;
  }
}
