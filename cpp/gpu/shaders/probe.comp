// The arithmetic of common.glsl on triples a, b, c: fma, a / b, sqrt(|a|), a as a half.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(local_size_x = 256) in;
layout(push_constant) uniform Push { Floats triples; Words result; uint n; };

void main() {
  uint i = gl_GlobalInvocationID.x;
  if (i >= n) return;
  float a = triples.at[3 * i], b = triples.at[3 * i + 1], c = triples.at[3 * i + 2];
  result.at[4 * i] = bits_of(fused(a, b, c));
  result.at[4 * i + 1] = bits_of(divided(a, b));
  result.at[4 * i + 2] = bits_of(root(abs(a)));
  result.at[4 * i + 3] = to_half(a);
}
