// exp and log made only of +, -, *, / on doubles. IEEE 754 defines how these round (with
// -ffp-contract=off), so results are the same on every machine. The last bit of libm's functions is
// not, and the same seed could draw another token. Error: at most 2 units in the last place.
#pragma once
#include <bit>
#include <cstdint>

namespace starchat {

inline constexpr double kLn2High = 0x1.62e42feep-1;  // 32 bits: n * kLn2High is exact
inline constexpr double kLn2Low = 0x1.a39ef35793c76p-33;

// e^x for x <= 0; 0 below -700: such a token is never drawn.
inline double exp_nonpositive(double x) {
  if (!(x >= -700)) return 0;
  constexpr double kRound = 0x1.8p52;  // x + kRound has round(x) in its low bits
  const double shifted = x * 0x1.71547652b82fep0 + kRound, n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= ln2 / 2, so r^14 / 14! < 2^-57
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1;
  p = p * r + 1;
  return p * std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);  // p * 2^n
}

// ln x for finite x >= 1: x = m * 2^n with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh(s).
inline double log_from_one(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x) - std::bit_cast<uint64_t>(0x1.6a09e667f3bcdp-1);
  const int64_t n = static_cast<int64_t>(bits >> 52);
  const double m =
      std::bit_cast<double>(std::bit_cast<uint64_t>(x) - (static_cast<uint64_t>(n) << 52));
  const double s = (m - 1) / (m + 1), s2 = s * s;  // |s| <= 0.1716: s^23 / 23 < 2^-62
  double p = 1.0 / 21;
  for (int k = 19; k >= 1; k -= 2) p = p * s2 + 1.0 / k;
  return n * kLn2High + (n * kLn2Low + 2 * s * p);
}

}  // namespace starchat
