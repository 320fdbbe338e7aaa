// NEON with dot products (Armv8.2): 16 lanes are four registers. SDOT multiplies signed bytes, to
// which codes of up to 6 bits need no conversion.
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
  struct Quad {
    uint8x16_t part[4];
  };
  struct Products {};  // 16-bit sums: SDOT needs none
  static constexpr int kLanes = 16;
  using Rows = Neon;  // for several columns: all 16 rows of a strip
  static constexpr int kMaxColumns = 4;
  static constexpr int kPanelStrips = 1;
  static constexpr int kFewColumns = 4;  // row by row: their sums fit into registers
  static constexpr int kPanelColumns = 4;
  static constexpr int kVectors = 1;  // of keys or values in one pass of attention
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

  static I load_int(const std::byte* p) {
    I out;
    for (int i = 0; i < 4; ++i) {
      out.part[i] = vreinterpretq_s32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p) + 16 * i));
    }
    return out;
  }
  static I load_words(const uint16_t* p) {
    I out;
    for (int i = 0; i < 4; ++i) {
      out.part[i] = vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p + 4 * i)));
    }
    return out;
  }
  static I and_int(I a, const I& b) {
    for (int i = 0; i < 4; ++i) a.part[i] = vandq_s32(a.part[i], b.part[i]);
    return a;
  }
  static I or_int(I a, const I& b) {
    for (int i = 0; i < 4; ++i) a.part[i] = vorrq_s32(a.part[i], b.part[i]);
    return a;
  }
  static I shift_int(I x, int n) {  // to the right; to the left if n < 0
    for (auto& part : x.part) {
      part = vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(part), vdupq_n_s32(-n)));
    }
    return x;
  }

  template <class Operation>
  static Quad each_byte(Operation operation) {
    Quad out;
    for (int i = 0; i < 4; ++i) out.part[i] = operation(i);
    return out;
  }
  static Quad load_bytes(const std::byte* p) {
    return each_byte([=](int i) { return vld1q_u8(reinterpret_cast<const uint8_t*>(p) + 16 * i); });
  }
  static Quad and_bytes(const Quad& x, int mask) {
    return each_byte(
        [&](int i) { return vandq_u8(x.part[i], vdupq_n_u8(static_cast<uint8_t>(mask))); });
  }
  static Quad shift_bytes(const Quad& x, int n) {  // as shift_int
    return each_byte(
        [&](int i) { return vshlq_u8(x.part[i], vdupq_n_s8(static_cast<int8_t>(-n))); });
  }
  static Quad select_bytes(int mask, const Quad& ones, const Quad& zeros) {
    return each_byte([&](int i) {
      return vbslq_u8(vdupq_n_u8(static_cast<uint8_t>(mask)), ones.part[i], zeros.part[i]);
    });
  }
  static Quad signed_bytes(const Quad& x) { return x; }
  static Quad look_up(const Quad& codes) {
    const uint8x16_t table = vreinterpretq_u8_s8(vld1q_s8(kCodeValues));
    return each_byte([&](int i) { return vqtbl1q_u8(table, codes.part[i]); });
  }
  static int8x16_t four_bytes(const int8_t* q) {
    int32_t four;
    __builtin_memcpy(&four, q, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  template <int kBits>
  static void add_dot(I& sum, Products&, const Quad& quad, int8x16_t four, int, int) {
    for (int i = 0; i < 4; ++i) {
      sum.part[i] = vdotq_s32(sum.part[i], vreinterpretq_s8_u8(quad.part[i]), four);
    }
  }
};

}  // namespace

const Kernels& neon_kernels() {
  static const Kernels kernels = make_kernels<Neon>("neon");
  return kernels;
}

}  // namespace starchat
