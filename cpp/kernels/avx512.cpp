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
  struct Products {};  // 16-bit sums: VPDPBUSD needs none
  static constexpr int kLanes = 16;
  static constexpr int kPanelStrips = 2;
  static constexpr int kFewColumns = 4;         // row by row: their sums fit into registers
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

  static I load_int(const std::byte* p) { return _mm512_loadu_si512(p); }
  static I load_words(const uint16_t* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static I and_int(I a, I b) { return _mm512_and_si512(a, b); }
  static I or_int(I a, I b) { return _mm512_or_si512(a, b); }
  static I shift_int(I x, int n) {  // to the right; to the left if n < 0
    return n < 0 ? _mm512_slli_epi32(x, -n) : _mm512_srli_epi32(x, n);
  }

  static Quad load_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }
  static Quad and_bytes(Quad x, int mask) {
    return _mm512_and_si512(x, _mm512_set1_epi8(static_cast<char>(mask)));
  }
  static Quad shift_bytes(Quad x, int n) {  // as shift_int
    return n < 0 ? _mm512_slli_epi16(x, -n) : _mm512_srli_epi16(x, n);
  }
  static Quad select_bytes(int mask, Quad ones, Quad zeros) {
    constexpr int kSelect = 0xca;  // truth table of a ? b : c
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8(static_cast<char>(mask)), ones, zeros,
                                     kSelect);
  }
  // Both add 128: weight_offset().
  static Quad signed_bytes(Quad x) {
    return _mm512_xor_si512(x, _mm512_set1_epi8(static_cast<char>(0x80)));
  }
  static Quad look_up(Quad codes) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kCodeValues));
    return _mm512_shuffle_epi8(signed_bytes(_mm512_broadcast_i32x4(table)), codes);
  }
  static I four_bytes(const int8_t* q) {
    int32_t four;
    __builtin_memcpy(&four, q, 4);
    return _mm512_set1_epi32(four);
  }
  template <int kBits>
  static void add_dot(I& sum, Products&, Quad quad, I four, int, int) {
    sum = _mm512_dpbusd_epi32(sum, quad, four);
  }
};

}  // namespace

const Kernels& avx512_kernels() {
  static const Kernels kernels = make_kernels<Avx512>("avx512");
  return kernels;
}

}  // namespace starchat
