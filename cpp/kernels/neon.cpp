// NEON with dot products (Armv8.2): 16 lanes are four registers. SDOT multiplies signed bytes, to
// which 4- and 5-bit weights (0 to 31) need no conversion.
#include <arm_neon.h>

#include "kernels/kernels_impl.hpp"

namespace starchat {
namespace {

struct Neon {
  struct F {
    float32x4_t part[4];
  };
  struct I {
    int32x4_t part[4];
  };
  struct Quads {
    int8x16_t q[8][4];
  };
  static constexpr int kLanes = 16;
  using Rows = Neon;  // for several columns: all 16 rows of a strip
  static constexpr int kMaxColumns = 4;
  static constexpr int kPanelColumns = 0;  // products go strip by strip
  static constexpr int kVectors = 1;       // of keys or values in one pass of attention
  static constexpr bool kUnsignedBytes = false;

  template <class Operation>
  static F each(Operation operation) {
    F out;
    for (int i = 0; i < 4; ++i) out.part[i] = operation(i);
    return out;
  }

  static F load(const float* p) {
    return each([=](int i) { return vld1q_f32(p + 4 * i); });
  }
  static void store(float* p, const F& x) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.part[i]);
  }
  static F set1(float x) {
    return each([=](int) { return vdupq_n_f32(x); });
  }
  static F add(const F& a, const F& b) {
    return each([&](int i) { return vaddq_f32(a.part[i], b.part[i]); });
  }
  static F sub(const F& a, const F& b) {
    return each([&](int i) { return vsubq_f32(a.part[i], b.part[i]); });
  }
  static F mul(const F& a, const F& b) {
    return each([&](int i) { return vmulq_f32(a.part[i], b.part[i]); });
  }
  static F div(const F& a, const F& b) {
    return each([&](int i) { return vdivq_f32(a.part[i], b.part[i]); });
  }
  static F fma(const F& a, const F& b, const F& c) {
    return each([&](int i) { return vfmaq_f32(c.part[i], a.part[i], b.part[i]); });
  }
  // As a > b ? a : b: the result for NaN of the other instruction sets.
  static F max(const F& a, const F& b) {
    return each(
        [&](int i) { return vbslq_f32(vcgtq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]); });
  }
  static F min(const F& a, const F& b) {
    return each(
        [&](int i) { return vbslq_f32(vcltq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]); });
  }
  static F abs(const F& a) {
    return each([&](int i) { return vabsq_f32(a.part[i]); });
  }
  static F load_half(const uint16_t* p) {
    return each([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
  }
  static void store_half(uint16_t* p, const F& x) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.part[i])));
  }
  static I as_int(const F& x) {
    I out;
    for (int i = 0; i < 4; ++i) out.part[i] = vreinterpretq_s32_f32(x.part[i]);
    return out;
  }
  static F as_float(const I& x) {
    F out;
    for (int i = 0; i < 4; ++i) out.part[i] = vreinterpretq_f32_s32(x.part[i]);
    return out;
  }
  static I to_exponent(I n) {
    for (auto& part : n.part) part = vshlq_n_s32(part, kMantissaBits);
    return n;
  }
  static I max_int(I a, const I& b) {
    for (int i = 0; i < 4; ++i) a.part[i] = vmaxq_s32(a.part[i], b.part[i]);
    return a;
  }
  static I add_int(I a, const I& b) {
    for (int i = 0; i < 4; ++i) a.part[i] = vaddq_s32(a.part[i], b.part[i]);
    return a;
  }
  static int32_t max_of(const I& x) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.part[0], x.part[1]), vmaxq_s32(x.part[2], x.part[3])));
  }
  static int32_t sum_of(const I& x) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(x.part[0], x.part[1]), vaddq_s32(x.part[2], x.part[3])));
  }
  static I round(const F& x) {
    I out;
    for (int i = 0; i < 4; ++i) out.part[i] = vcvtnq_s32_f32(x.part[i]);
    return out;
  }
  static void store_bytes(int8_t* p, const I& x) {
    const auto words = [&](int i) {
      return vcombine_s16(vmovn_s32(x.part[i]), vmovn_s32(x.part[i + 1]));
    };
    vst1q_s8(p, vcombine_s8(vmovn_s16(words(0)), vmovn_s16(words(2))));
  }
  static I set1_int(int32_t x) {
    const int32x4_t all = vdupq_n_s32(x);
    return {{all, all, all, all}};
  }
  static F to_float(const I& x) {
    return each([&](int i) { return vcvtq_f32_s32(x.part[i]); });
  }

  template <int kBits>
  static Quads unpack(const std::byte* qs, const std::byte* qh) {
    Quads quads;
    for (int i = 0; i < 4; ++i) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(qs) + 16 * i;
      if constexpr (kBits == 8) {
        for (int j = 0; j < 8; ++j) {
          quads.q[j][i] = vreinterpretq_s8_u8(vld1q_u8(bytes + 64 * j));
        }
        continue;
      }
      for (int j = 0; j < 4; ++j) {
        const uint8x16_t packed = vld1q_u8(bytes + 64 * j);
        uint8x16_t low, high;
        if constexpr (kBits == 4) {
          low = vandq_u8(packed, vdupq_n_u8(0x0f));
          high = vshrq_n_u8(packed, 4);
        } else {
          const uint8x16_t bits = vld1q_u8(reinterpret_cast<const uint8_t*>(qh) + 16 * i);
          const uint8x16_t high_at_bit3 = vshlq_u8(bits, vdupq_n_s8(3 - 2 * j));
          low = vandq_u8(packed, vdupq_n_u8(0x1f));
          high = vorrq_u8(vshrq_n_u8(packed, 5), vandq_u8(high_at_bit3, vdupq_n_u8(0x18)));
        }
        quads.q[j][i] = vreinterpretq_s8_u8(low);
        quads.q[j + 4][i] = vreinterpretq_s8_u8(high);
      }
    }
    return quads;
  }

  template <int kBits, int kColumns>
  static void add_dots(I (&sum)[kColumns], const Quads& quads, const ActivationBlock* x) {
    for (int j = 0; j < 8; ++j) {
      for (int c = 0; c < kColumns; ++c) {
        int32_t four;
        __builtin_memcpy(&four, x[c].q + 4 * j, 4);
        const int8x16_t repeated = vreinterpretq_s8_s32(vdupq_n_s32(four));
        for (int i = 0; i < 4; ++i) {
          sum[c].part[i] = vdotq_s32(sum[c].part[i], quads.q[j][i], repeated);
        }
      }
    }
  }
};

}  // namespace

const Kernels& neon_kernels() {
  static const Kernels kernels = make_kernels<Neon>("neon");
  return kernels;
}

}  // namespace starchat
