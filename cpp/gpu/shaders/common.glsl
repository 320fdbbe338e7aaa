// What every shader shares: memory by address, and arithmetic with the bits of cpp/kernels.
// Every float operation is decorated NoContraction by make_shaders.py: none is fused or reordered.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference_uvec2 : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_spirv_intrinsics : require

layout(constant_id = 0) const bool NATIVE_FMA = false;  // fma() of this driver rounds once

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Words { uint at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats { float at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Vectors { uvec4 at[]; };
// Addresses of Words, which as an array would need a feature of descriptors.
layout(buffer_reference, std430, buffer_reference_align = 8) readonly buffer Pages { uvec2 at[]; };
// Of a step: where each column is. Columns of one sequence have one first_page.
struct Column { uint position, first_page; };
layout(buffer_reference, std430, buffer_reference_align = 8) readonly buffer Columns { Column at[]; };

const uint BLOCK = 32, GROUP_BLOCKS = 16, GROUP = 512, PAGE = 32, SPAN = 512;

uint bits_of(float x) { return floatBitsToUint(x); }
float of_bits(uint x) { return uintBitsToFloat(x); }

float two_sum(float a, float b, out float error) {  // a + b = sum + error, exactly
  float sum = a + b, b_part = sum - a;
  error = (a - (sum - b_part)) + (b - b_part);
  return sum;
}

// a · b + c, rounded once. Emulated: product and sum are split into their roundings and errors; the
// errors are added with rounding to odd, so that the last sum rounds as the exact value would.
float fused(float a, float b, float c) {
  if (NATIVE_FMA) return fma(a, b, c);
  float product = a * b, plain = product + c;
  // The error of a tiny product has no place below it: all is computed 2^64 times as large.
  bool is_tiny = abs(product) < 1e-12 && abs(c) < 1e-12;
  float size = is_tiny ? 18446744073709551616.0 : 1.0;
  if (abs(a) < abs(b)) a = a * size; else b = b * size;
  c = c * size;
  product = a * b;
  if ((bits_of(plain) & 0x7f800000u) == 0x7f800000u) return plain;  // infinite or NaN
  float a_high = of_bits(bits_of(a) & 0xfffff000u), a_low = a - a_high;
  float b_high = of_bits(bits_of(b) & 0xfffff000u), b_low = b - b_high;
  float below = ((product - a_high * b_high) - a_low * b_high) - a_high * b_low;
  float product_error = a_low * b_low - below;
  float low, lower, odd_error;
  float high = two_sum(c, product_error, low);
  high = two_sum(product, high, lower);
  float odd = two_sum(low, lower, odd_error);
  uint bits = bits_of(odd);
  if (odd_error != 0.0 && (bits & 1u) == 0u) {
    odd = of_bits((odd_error > 0.0) == (odd > 0.0) ? bits + 1u : bits - 1u);
  }
  float sum = (high + odd) * (is_tiny ? 5.421010862427522e-20 : 1.0);
  return sum == 0.0 ? plain : sum;  // plain has the right sign of zero
}

// a / b and sqrt(x), rounded to nearest, from what the driver gives: at most 3 ulp from it.
float divided(float a, float b) {
  float quotient = a / b;
  if ((bits_of(quotient) & 0x7f800000u) == 0x7f800000u || quotient == 0.0) return quotient;
  for (int i = 0; i < 4; ++i) {
    float rest = fused(-quotient, b, a);
    if (rest == 0.0) break;
    bool grows = ((rest > 0.0) == (b > 0.0)) == (quotient > 0.0);
    float next = of_bits(grows ? bits_of(quotient) + 1u : bits_of(quotient) - 1u);
    if (abs(fused(-next, b, a)) >= abs(rest)) break;
    quotient = next;
  }
  return quotient;
}

float root(float x) {
  float estimate = sqrt(x);
  if ((bits_of(x) & 0x7f800000u) == 0x7f800000u || x <= 0.0) return estimate;
  for (int i = 0; i < 4; ++i) {
    float next = of_bits(bits_of(estimate) + 1u), rest = fused(-estimate, estimate, x);
    float bound = estimate * (next - estimate);
    if (rest > bound) {
      estimate = next;
    } else if (rest <= -bound) {
      estimate = of_bits(bits_of(estimate) - 1u);
    } else {
      break;
    }
  }
  return estimate;
}

// As in cpp/kernels/lanes_impl.hpp.
float exponential(float x) {
  x = x > -86.0 ? x : -86.0;
  x = x < 88.0 ? x : 88.0;
  const float magic = 12582912.0;  // 1.5 · 2^23
  float shifted = fused(x, of_bits(0x3fb8aa3bu), magic);  // 1 / ln 2
  float n = shifted - magic;
  float r = fused(n, of_bits(0xbf317200u), x);
  r = fused(n, of_bits(0xb5bfbe8eu), r);
  float p = 1.0 / 720.0;
  p = fused(p, r, 1.0 / 120.0);
  p = fused(p, r, 1.0 / 24.0);
  p = fused(p, r, 1.0 / 6.0);
  p = fused(p, r, 0.5);
  p = fused(p, r, 1.0);
  p = fused(p, r, 1.0);
  return of_bits(bits_of(p) + (bits_of(shifted) << 23));
}

// In integers: drivers may flush subnormals or round halves otherwise (cpp/quant/half.hpp).
float of_half(uint bits) {
  uint magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
  if (magnitude < 0x400u) return of_bits(bits_of(float(magnitude) * of_bits(0x33800000u)) | sign);
  return of_bits(((magnitude << 13) + (magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u)) | sign);
}
float low_half(uint pair) { return of_half(pair & 0xffffu); }
float high_half(uint pair) { return of_half(pair >> 16); }

uint to_half(float x) {
  uint sign = bits_of(x) >> 16 & 0x8000u, magnitude = bits_of(x) & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7e00u | sign;
  if (magnitude >= 0x47800000u) return 0x7c00u | sign;
  if (magnitude < 0x38800000u) return bits_of(of_bits(magnitude) + 0.5) - 0x3f000000u | sign;
  return (magnitude - 0x38000000u + 0x0fffu + (magnitude >> 13 & 1u)) >> 13 | sign;
}

// Where a column of activations keeps its parts, in words. Floats are plain. Quantized:
//   q int8[n_blocks][32] | meta u32[n_blocks] | scale f32[n_groups]
//   meta: power (8 bits) | sum of q of the first 16 (12, signed) | of the last 16 (12, signed)
uint meta_at(uint n_blocks) { return 8 * n_blocks; }
uint scales_at(uint n_blocks) { return 9 * n_blocks; }
