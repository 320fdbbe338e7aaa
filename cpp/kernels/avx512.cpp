// AVX-512 with VNNI: one register holds 16 rows x 4 k, and two strips are multiplied together. A
// 4-bit block of both strips takes 8 loads and 24 operations to unpack, once for up to 6 columns.
// Each column takes 8 broadcasts of 4 activations from memory, 16 VPDPBUSD, and 2 conversions, 2
// integer additions and 2 fmas.
#include <immintrin.h>

#include "kernels/kernels_impl.hpp"

namespace starchat {
namespace {

struct Avx512 {
  using F = __m512;
  using I = __m512i;
  using Quad = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kPanelColumns = 6;       // of a pass over both strips of a panel
  using Rows = Avx512;                          // for several columns: all 16 rows of a strip
  static constexpr int kMaxColumns = 24;        // sums of one pass of float weights, 32 registers
  static constexpr int kVectors = 2;            // of keys or values in one pass of attention
  static constexpr bool kUnsignedBytes = true;  // VPDPBUSD multiplies unsigned by signed bytes

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
  static I as_int(F x) { return _mm512_castps_si512(x); }
  static F as_float(I x) { return _mm512_castsi512_ps(x); }
  static I to_exponent(I n) { return _mm512_slli_epi32(n, kMantissaBits); }
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

  // Unpacks quads j and j + 4 (StripLayout has the bits).
  template <int kBits>
  static void unpack(const std::byte* qs, const std::byte* qh, int j, Quad (&two)[2]) {
    if constexpr (kBits == 8) {
      const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
      two[0] = _mm512_xor_si512(load_bytes(qs + 64 * j), flip);
      two[1] = _mm512_xor_si512(load_bytes(qs + 64 * (j + 4)), flip);
      return;
    }
    const __m512i packed = load_bytes(qs + 64 * j);
    if constexpr (kBits == 4) {
      const __m512i low4 = _mm512_set1_epi8(0x0f);
      two[0] = _mm512_and_si512(packed, low4);
      two[1] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low4);
    } else {
      constexpr int kSelect = 0xca;  // truth table of a ? b : c
      const __m512i low5 = _mm512_set1_epi8(0x1f), low3 = _mm512_set1_epi8(0x07);
      const __m512i high = load_bytes(qh);
      const __m512i high_at_bit3 =
          j < 2 ? _mm512_slli_epi16(high, 3 - 2 * j) : _mm512_srli_epi16(high, 2 * j - 3);
      const __m512i mixed =
          _mm512_ternarylogic_epi32(low3, _mm512_srli_epi16(packed, 5), high_at_bit3, kSelect);
      two[0] = _mm512_and_si512(packed, low5);
      two[1] = _mm512_and_si512(mixed, low5);
    }
  }
  static I four_bytes(const int8_t* q) {
    int32_t four;
    __builtin_memcpy(&four, q, 4);
    return _mm512_set1_epi32(four);
  }
  static I add_dot(I sum, Quad quad, I four) { return _mm512_dpbusd_epi32(sum, quad, four); }
};

}  // namespace

const Kernels& avx512_kernels() {
  static const Kernels kernels = make_kernels<Avx512>("avx512");
  return kernels;
}

}  // namespace starchat
