// Replaces scores by the numerators of softmax, and keeps 1 / their sum. A workgroup has a head of
// a column. The sum has 16 lanes, by position.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "attention.glsl"
layout(local_size_x = 256) in;
const uint CHUNK = 1024;
shared float values[CHUNK];

void main() {
  uint id = gl_LocalInvocationID.x, c = gl_WorkGroupID.y, head = gl_WorkGroupID.x;
  uint row = (c * n_heads + head) * score_stride, n = columns.at[c].position + 1;
  float largest = scores.at[row];
  for (uint i = id; i < n; i += 256) {
    float score = scores.at[row + i];
    largest = largest > score ? largest : score;
  }
  values[id] = largest;
  for (uint width = 128; width > 0; width /= 2) {
    barrier();
    if (id < width) values[id] = values[id] > values[id + width] ? values[id] : values[id + width];
  }
  barrier();
  float shift = -scale * values[0], sum = 0.0;
  for (uint first = 0; first < n; first += CHUNK) {
    barrier();
    for (uint i = id; i < CHUNK && first + i < n; i += 256) {
      float score = scores.at[row + first + i];  // score · 0 is NaN for NaN
      float weight = fused(score, 0.0, exponential(fused(score, scale, shift)));
      scores.at[row + first + i] = weight;
      values[i] = weight;
    }
    barrier();
    if (id < 16) {
      for (uint i = id; i < CHUNK && first + i < n; i += 16) sum = sum + values[i];
    }
  }
  barrier();
  if (id < 16) values[id] = sum;
  for (uint width = 8; width > 0; width /= 2) {
    barrier();
    if (id < width) values[id] = values[id] + values[id + width];
  }
  if (id == 0) inverse.at[c * n_heads + head] = divided(1.0, values[0]);
}
