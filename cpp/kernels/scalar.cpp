// Plain C++: the readable reference. It runs everywhere; all instruction sets give its bits.
#include <algorithm>
#include <bit>
#include <cmath>
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
  struct Quads {
    int8_t q[8][kLanes][4];  // quad, row, k
  };
  static constexpr int kLanes = 16;
  using Rows = Scalar;  // for several columns: all 16 rows of a strip
  static constexpr int kMaxColumns = 4;
  static constexpr int kPanelColumns = 0;  // products go strip by strip
  static constexpr int kVectors = 1;       // of keys or values in one pass of attention
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

  template <int kBits>
  static Quads unpack(const std::byte* qs, const std::byte* qh) {
    Quads quads;
    for (int j = 0; j < 8; ++j) {
      for (int row = 0; row < kLanes; ++row) {
        for (int t = 0; t < 4; ++t) {
          const int at = 4 * row + t;
          if constexpr (kBits == 8) {
            quads.q[j][row][t] = static_cast<int8_t>(qs[64 * j + at]);
          } else {
            const int packed = static_cast<int>(qs[64 * (j % 4) + at]);
            int value = j < 4 ? packed & ((1 << kBits) - 1) : packed >> kBits;
            if (kBits == 5 && j >= 4) value |= (static_cast<int>(qh[at]) >> 2 * (j - 4) & 3) << 3;
            quads.q[j][row][t] = static_cast<int8_t>(value);
          }
        }
      }
    }
    return quads;
  }

  template <int kBits, int kColumns>
  static void add_dots(I (&sum)[kColumns], const Quads& quads, const ActivationBlock* x) {
    for (int c = 0; c < kColumns; ++c) {
      for (int j = 0; j < 8; ++j) {
        for (int row = 0; row < kLanes; ++row) {
          for (int t = 0; t < 4; ++t) sum[c].lane[row] += quads.q[j][row][t] * x[c].q[4 * j + t];
        }
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
