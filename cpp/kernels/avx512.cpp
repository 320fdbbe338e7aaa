// AVX-512 with VNNI: one register is 16 rows x 4 k. A 4-bit block of one strip costs 4 loads and
// 12 operations to unpack, then 8 VPDPBUSD (activations broadcast from memory), one conversion,
// one multiplication and one fma per column.
#include <immintrin.h>

#include "kernels/kernels_impl.hpp"

namespace starchat {
namespace {

struct Avx512 {
  using F = __m512;
  using I = __m512i;
  struct Quads {
    __m512i q[8];
  };
  static constexpr int kLanes = 16;
  using Rows = Avx512;  // of a strip, for several columns
  static constexpr int kMaxColumns = 16;
  static constexpr int kTiles = 2;  // of keys or values that one pass of attention takes
  static constexpr bool kUnsignedBytes = true;  // VPDPBUSD wants unsigned weights

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store_half(uint16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // x · 2^n, n in the low mantissa bits of `shifted`.
  static F scale_by_power_of_two(F x, F shifted) {
    return _mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
  }

  static I as_int(F x) { return _mm512_castps_si512(x); }
  static I max_int(I a, I b) { return _mm512_max_epi32(a, b); }
  static I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
  static int32_t max_of(I x) { return _mm512_reduce_max_epi32(x); }
  static int32_t sum_of(I x) { return _mm512_reduce_add_epi32(x); }
  static I round(F x) { return _mm512_cvtps_epi32(x); }  // nearest, ties to even
  static void store_bytes(int8_t* p, I x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
  }
  static I set1_int(int32_t x) { return _mm512_set1_epi32(x); }
  static F to_float(I x) { return _mm512_cvtepi32_ps(x); }

  static __m512i load_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }

  template <int kBits>
  static Quads unpack(const std::byte* qs, const std::byte* qh) {
    Quads quads;
    if constexpr (kBits == 8) {
      const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
      for (int j = 0; j < 8; ++j) quads.q[j] = _mm512_xor_si512(load_bytes(qs + 64 * j), flip);
    } else {
      const __m512i nibble = _mm512_set1_epi8(0x0f);
      for (int j = 0; j < 4; ++j) {
        const __m512i both = load_bytes(qs + 64 * j);
        quads.q[j] = _mm512_and_si512(both, nibble);
        quads.q[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
      }
      if constexpr (kBits == 5) {
        const __m512i fifth = load_bytes(qh), bit4 = _mm512_set1_epi8(0x10);
        constexpr int kOrAnd = 0xf8;  // a | (b & c)
        for (int j = 0; j < 4; ++j) {
          quads.q[j] =
              _mm512_ternarylogic_epi32(quads.q[j], _mm512_slli_epi16(fifth, 4 - j), bit4, kOrAnd);
          quads.q[j + 4] =
              _mm512_ternarylogic_epi32(quads.q[j + 4], _mm512_srli_epi16(fifth, j), bit4, kOrAnd);
        }
      }
    }
    return quads;
  }

  template <int kBits, int kColumns>
  static void add_dots(I (&sum)[kColumns], const Quads& quads, const ActivationBlock* x) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) {
        int32_t four;
        __builtin_memcpy(&four, x[c].q + 4 * j, 4);
        sum[c] = _mm512_dpbusd_epi32(sum[c], quads.q[j], _mm512_set1_epi32(four));
      }
    }
  }
};

}  // namespace

const Kernels& avx512_kernels() {
  static const Kernels kernels = make_kernels<Avx512>("avx512");
  return kernels;
}

}  // namespace starchat
