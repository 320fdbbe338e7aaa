// Plain C++: the readable reference. It runs everywhere; all instruction sets give its bits.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/kernels_impl.hpp"

namespace starchat {
namespace {

struct Scalar {
  struct F {
    float lane[kLanes];
  };
  struct I {
    int32_t lane[kLanes];
  };
  struct Quad {
    uint8_t byte[4 * kLanes];  // (row, k)
  };
  struct Products {};  // sums of 16 bits, which only AVX2 needs
  static constexpr int kLanes = 16;
  using Rows = Scalar;  // for several columns: all 16 rows of a strip
  static constexpr int kMaxColumns = 4;
  static constexpr int kPanelStrips = 1;
  static constexpr int kFewColumns = 0;  // row by row: one order of work is enough here
  static constexpr int kPanelColumns = 2;
  static constexpr int kVectors = 1;  // of keys or values in one pass of attention
  static constexpr bool kUnsignedBytes = false;

  template <class Operation>
  static F each(Operation operation) {
    F out;
    for (int i = 0; i < kLanes; ++i) out.lane[i] = operation(i);
    return out;
  }

  static F load(const float* p) {
    return each([=](int i) { return p[i]; });
  }
  static void store(float* p, const F& x) {
    for (int i = 0; i < kLanes; ++i) p[i] = x.lane[i];
  }
  static F set1(float x) {
    return each([=](int) { return x; });
  }
  static F add(const F& a, const F& b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static F sub(const F& a, const F& b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static F mul(const F& a, const F& b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static F div(const F& a, const F& b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static F fma(const F& a, const F& b, const F& c) {
    return each([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
  }
  static F max(const F& a, const F& b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static F min(const F& a, const F& b) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static F abs(const F& a) {
    return each([&](int i) { return std::fabs(a.lane[i]); });
  }
  static F load_half(const uint16_t* p) {
    return each([=](int i) { return f16_to_f32(p[i]); });
  }
  static void store_half(uint16_t* p, const F& x) {
    for (int i = 0; i < kLanes; ++i) p[i] = f32_to_f16(x.lane[i]);
  }
  static I as_int(const F& x) { return std::bit_cast<I>(x); }
  static F as_float(const I& x) { return std::bit_cast<F>(x); }
  static I to_exponent(I n) {
    for (int32_t& lane : n.lane)
      lane = static_cast<int32_t>(static_cast<uint32_t>(lane) << kMantissaBits);
    return n;
  }
  static I max_int(I a, const I& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
  }
  static I add_int(I a, const I& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static int32_t max_of(const I& x) { return *std::max_element(x.lane, x.lane + kLanes); }
  static int32_t sum_of(const I& x) { return std::accumulate(x.lane, x.lane + kLanes, 0); }
  static I round(const F& x) {
    I out;
    for (int i = 0; i < kLanes; ++i) {
      const float rounded = x.lane[i] + 0x1.8p23f;  // nearest, ties to even
      out.lane[i] = static_cast<int8_t>(std::bit_cast<int32_t>(rounded));
    }
    return out;
  }
  static void store_bytes(int8_t* p, const I& x) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(x.lane[i]);
  }
  static I set1_int(int32_t x) {
    I out;
    for (int32_t& lane : out.lane) lane = x;
    return out;
  }
  static F to_float(const I& x) {
    return each([&](int i) { return static_cast<float>(x.lane[i]); });
  }

  static I load_int(const std::byte* p) {
    I out;
    std::memcpy(out.lane, p, sizeof out.lane);
    return out;
  }
  static I load_words(const uint16_t* p) {
    I out;
    std::copy_n(p, kLanes, out.lane);
    return out;
  }
  static I and_int(I a, const I& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] &= b.lane[i];
    return a;
  }
  static I or_int(I a, const I& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] |= b.lane[i];
    return a;
  }
  static I shift_int(I x, int n) {  // to the right; to the left if n < 0
    for (int32_t& lane : x.lane) {
      const auto bits = static_cast<uint32_t>(lane);
      lane = static_cast<int32_t>(n < 0 ? bits << -n : bits >> n);
    }
    return x;
  }

  // Not inlined: the loops of a product are unrolled, which is of no use here but in size.
  template <class Operation>
  static Quad each_byte(Operation operation) {
    Quad out;
    for (int i = 0; i < 4 * kLanes; ++i) out.byte[i] = static_cast<uint8_t>(operation(i));
    return out;
  }
  [[gnu::noinline]] static Quad load_bytes(const std::byte* p) {
    return each_byte([=](int i) { return p[i]; });
  }
  [[gnu::noinline]] static Quad and_bytes(const Quad& x, int mask) {
    return each_byte([&](int i) { return x.byte[i] & mask; });
  }
  [[gnu::noinline]] static Quad shift_bytes(const Quad& x, int n) {  // as shift_int
    return each_byte([&](int i) { return n < 0 ? x.byte[i] << -n : x.byte[i] >> n; });
  }
  [[gnu::noinline]] static Quad select_bytes(int mask, const Quad& ones, const Quad& zeros) {
    return each_byte([&](int i) { return (ones.byte[i] & mask) | (zeros.byte[i] & ~mask); });
  }
  static Quad signed_bytes(const Quad& x) { return x; }
  [[gnu::noinline]] static Quad look_up(const Quad& codes) {
    return each_byte([&](int i) { return kCodeValues[codes.byte[i]]; });
  }
  static const int8_t* four_bytes(const int8_t* q) { return q; }
  template <int kBits>
  [[gnu::noinline]] static void add_dot(I& sum, Products&, const Quad& quad, const int8_t* four,
                                        int, int) {
    for (int row = 0; row < kLanes; ++row) {
      for (int t = 0; t < 4; ++t) {
        sum.lane[row] += static_cast<int8_t>(quad.byte[4 * row + t]) * four[t];
      }
    }
  }
};

}  // namespace

const Kernels& scalar_kernels() {
  static const Kernels kernels = make_kernels<Scalar>("scalar");
  return kernels;
}

}  // namespace starchat
