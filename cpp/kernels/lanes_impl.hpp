// Functions of 16 lanes that all kernels share: reductions and exp. V: see kernels_impl.hpp.
#pragma once
#include "kernels/kernels.hpp"

namespace starchat {
namespace {

// Not std::min: the linker may keep the copy that was compiled for another instruction set.
constexpr int smaller(int a, int b) { return a < b ? a : b; }

// ((lane 0 + lane 8) + (lane 4 + lane 12)) + …: halves are added, 8, 4, 2, 1 lanes at a time.
template <class V>
float sum_lanes(typename V::F x) {
  float lane[kLanes];
  V::store(lane, x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

template <class V>
float max_lanes(typename V::F x) {
  float lane[kLanes];
  V::store(lane, x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
  }
  return lane[0];
}

// x · 2^n, with power = n << kMantissaBits. Zero becomes at most 2^-112, which does not matter in a
// sum.
template <class V>
typename V::F times_power_of_two(typename V::F x, typename V::I power) {
  return V::as_float(V::add_int(V::as_int(x), power));
}

// exp(x) = 2^n · p(r), |r| <= ln2/2; relative error below 2e-7. x is clamped to [-86, 88].
template <class V>
typename V::F exp(typename V::F x) {
  using F = typename V::F;
  x = V::min(V::max(x, V::set1(-86.0f)), V::set1(88.0f));
  const F magic = V::set1(0x1.8p23f);  // x + magic has round(x) in its low mantissa bits
  const F shifted = V::fma(x, V::set1(0x1.715476p+0f), magic);
  const F n = V::sub(shifted, magic);
  F r = V::fma(n, V::set1(-0x1.62e400p-1f), x);  // ln 2 in two parts
  r = V::fma(n, V::set1(-0x1.7f7d1cp-20f), r);
  F p = V::set1(1.0f / 720);  // Taylor series; its remainder at ln2/2 is below 1.3e-7
  p = V::fma(p, r, V::set1(1.0f / 120));
  p = V::fma(p, r, V::set1(1.0f / 24));
  p = V::fma(p, r, V::set1(1.0f / 6));
  p = V::fma(p, r, V::set1(0.5f));
  p = V::fma(p, r, V::set1(1.0f));
  p = V::fma(p, r, V::set1(1.0f));
  return times_power_of_two<V>(p, V::to_exponent(V::as_int(shifted)));
}

}  // namespace
}  // namespace starchat
