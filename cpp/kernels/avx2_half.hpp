// Operations on 8 lanes with AVX2, FMA and F16C, for all instruction sets whose registers have 256
// bits. Dot products use VPMADDUBSW, whose 16-bit sums are added until they could exceed 32767: 8
// terms of up to 4 bits (8·2·15·127 = 30480), 4 of 5 bits (4·2·31·127 = 31496), 2 of 6 bits
// (2·2·63·127 = 32004), 1 of 8 bits (2·128·127 = 32512; the weight's sign moves to the activation,
// because one operand is unsigned).
#pragma once
#include <immintrin.h>

#include "kernels/kernels.hpp"

namespace starchat {
namespace {

struct Avx2Half {
  using F = __m256;
  using I = __m256i;
  using Quad = __m256i;
  using Products = __m256i;  // 16-bit sums
  static constexpr int kLanes = 8;
  static constexpr int kPanelStrips = 1;
  static constexpr int kPanelColumns = 4;
  static constexpr bool kUnsignedBytes = false;

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F abs(F x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static F load_half(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_half(uint16_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static I as_int(F x) { return _mm256_castps_si256(x); }
  static F as_float(I x) { return _mm256_castsi256_ps(x); }
  static I to_exponent(I n) { return _mm256_slli_epi32(n, kMantissaBits); }
  static I max_int(I a, I b) { return _mm256_max_epi32(a, b); }
  static I add_int(I a, I b) { return _mm256_add_epi32(a, b); }
  static int32_t max_of(I x) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0b01001110));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0b10110001)));
  }
  static int32_t sum_of(I x) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b01001110));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0b10110001)));
  }
  static I round(F x) { return _mm256_cvtps_epi32(x); }  // nearest, ties to even
  static void store_bytes(int8_t* p, I x) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
  }
  static I set1_int(int32_t x) { return _mm256_set1_epi32(x); }
  static F to_float(I x) { return _mm256_cvtepi32_ps(x); }

  static I load_int(const std::byte* p) { return load_bytes(p); }
  static I load_words(const uint16_t* p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static I and_int(I a, I b) { return _mm256_and_si256(a, b); }
  static I or_int(I a, I b) { return _mm256_or_si256(a, b); }
  static I shift_int(I x, int n) {  // to the right; to the left if n < 0
    return n < 0 ? _mm256_slli_epi32(x, -n) : _mm256_srli_epi32(x, n);
  }

  static Quad load_bytes(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Quad and_bytes(Quad x, int mask) {
    return _mm256_and_si256(x, _mm256_set1_epi8(static_cast<char>(mask)));
  }
  static Quad shift_bytes(Quad x, int n) {  // as shift_int
    return n < 0 ? _mm256_slli_epi16(x, -n) : _mm256_srli_epi16(x, n);
  }
  static Quad select_bytes(int mask, Quad ones, Quad zeros) {
    const __m256i select = _mm256_set1_epi8(static_cast<char>(mask));
    return _mm256_or_si256(_mm256_and_si256(select, ones), _mm256_andnot_si256(select, zeros));
  }
  static Quad signed_bytes(Quad x) { return x; }
  static Quad look_up(Quad codes) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kCodeValues));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes);
  }
  static I four_bytes(const int8_t* q) {
    int32_t four;
    __builtin_memcpy(&four, q, 4);
    return _mm256_set1_epi32(four);
  }
  // Where terms are added one by one, GCC would add them as a tree, all at the end: it would keep
  // the terms of all columns, in memory.
  static void keep_order(__m256i& sum) { asm("" : "+x"(sum)); }
  template <int kBits>
  static void add_dot(I& sum, Products& products, Quad quad, I four, int term, int n_terms) {
    constexpr int kTerms = kBits <= 4 ? 8 : kBits == 5 ? 4 : kBits == 6 ? 2 : 1;
    if constexpr (kBits == 8) {
      four = _mm256_sign_epi8(four, quad);
      quad = _mm256_abs_epi8(quad);
    }
    const __m256i words = _mm256_maddubs_epi16(quad, four);
    products = term % kTerms == 0 ? words : _mm256_add_epi16(products, words);
    keep_order(products);
    if (term % kTerms == kTerms - 1 || term == n_terms - 1) {
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
      keep_order(sum);
    }
  }
};

}  // namespace
}  // namespace starchat
