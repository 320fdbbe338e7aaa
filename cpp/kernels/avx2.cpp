// AVX2 with FMA and F16C: 16 lanes are two registers. Dot products by VPMADDUBSW, its 16-bit sums
// kept as long as they cannot overflow: 8 terms of 4-bit weights (8·2·15·127 = 30480), 4 of 5-bit
// ones (4·2·31·127 = 31496); 8-bit weights are made unsigned by moving their sign to the
// activation (2·128·127 = 32512) and are widened each time.
#include <immintrin.h>

#include "kernels/kernels_impl.hpp"

namespace starchat {
namespace {

struct Avx2 {
  struct F {
    __m256 low, high;
  };
  struct I {
    __m256i low, high;
  };
  struct Quads {
    I q[8];
  };
  static constexpr int kMaxColumns = 4;
  static constexpr bool kUnsignedBytes = false;

  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, F x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
  }
  static F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static F sub(F a, F b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static F mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static F div(F a, F b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static F fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F max(F a, F b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static F min(F a, F b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  static F abs(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
  }
  static F load_half(const uint16_t* p) {
    const auto* half = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(half)), _mm256_cvtph_ps(_mm_loadu_si128(half + 1))};
  }
  static void store_half(uint16_t* p, F x) {
    auto* half = reinterpret_cast<__m128i*>(p);
    _mm_storeu_si128(half, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(half + 1, _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
  }
  static F scale_by_power_of_two(F x, F shifted) {
    const auto scale = [](__m256 value, __m256 power) {
      return _mm256_castsi256_ps(_mm256_add_epi32(
          _mm256_castps_si256(value), _mm256_slli_epi32(_mm256_castps_si256(power), 23)));
    };
    return {scale(x.low, shifted.low), scale(x.high, shifted.high)};
  }

  static I as_int(F x) { return {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)}; }
  static I max_int(I a, I b) {
    return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
  }
  static I add_int(I a, I b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
  }
  static int32_t max_of(I x) {
    const __m256i eight = _mm256_max_epi32(x.low, x.high);
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0b01001110));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0b10110001)));
  }
  static int32_t sum_of(I x) {
    const __m256i eight = _mm256_add_epi32(x.low, x.high);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b01001110));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0b10110001)));
  }
  static I round(F x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }
  static void store_bytes(int8_t* p, I x) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0b11011000);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }
  static I set1_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  template <int kBits>
  static I shift_left(I x) {
    return {_mm256_slli_epi32(x.low, kBits), _mm256_slli_epi32(x.high, kBits)};
  }
  static F to_float(I x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }

  static __m256i load_bytes(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }

  template <int kBits>
  static Quads unpack(const std::byte* qs, const std::byte* qh) {
    Quads quads;
    const __m256i nibble = _mm256_set1_epi8(0x0f);
    for (int half = 0; half < 2; ++half) {
      const auto part = [half](I& quad) -> __m256i& { return half == 0 ? quad.low : quad.high; };
      if constexpr (kBits == 8) {
        for (int j = 0; j < 8; ++j) part(quads.q[j]) = load_bytes(qs + 64 * j + 32 * half);
      } else {
        for (int j = 0; j < 4; ++j) {
          const __m256i both = load_bytes(qs + 64 * j + 32 * half);
          part(quads.q[j]) = _mm256_and_si256(both, nibble);
          part(quads.q[j + 4]) = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
        }
        if constexpr (kBits == 5) {
          const __m256i fifth = load_bytes(qh + 32 * half), bit4 = _mm256_set1_epi8(0x10);
          for (int j = 0; j < 4; ++j) {
            const __m256i low = _mm256_and_si256(_mm256_slli_epi16(fifth, 4 - j), bit4);
            const __m256i high = _mm256_and_si256(_mm256_srli_epi16(fifth, j), bit4);
            part(quads.q[j]) = _mm256_or_si256(part(quads.q[j]), low);
            part(quads.q[j + 4]) = _mm256_or_si256(part(quads.q[j + 4]), high);
          }
        }
      }
    }
    return quads;
  }

  template <int kBits>
  static I dot(I start, const Quads& quads, const int8_t* q) {
    constexpr int kTerms = kBits == 4 ? 8 : kBits == 5 ? 4 : 1;
    const __m256i ones = _mm256_set1_epi16(1);
    for (int j = 0; j < 8; j += kTerms) {
      I words{};
      for (int t = 0; t < kTerms; ++t) {
        int32_t bytes;
        __builtin_memcpy(&bytes, q + 4 * (j + t), 4);
        const __m256i four = _mm256_set1_epi32(bytes);
        const I& quad = quads.q[j + t];
        I products;
        if constexpr (kBits == 8) {
          products = {
              _mm256_maddubs_epi16(_mm256_abs_epi8(quad.low), _mm256_sign_epi8(four, quad.low)),
              _mm256_maddubs_epi16(_mm256_abs_epi8(quad.high), _mm256_sign_epi8(four, quad.high))};
        } else {
          products = {_mm256_maddubs_epi16(quad.low, four), _mm256_maddubs_epi16(quad.high, four)};
        }
        words = t == 0 ? products
                       : I{_mm256_add_epi16(words.low, products.low),
                           _mm256_add_epi16(words.high, products.high)};
      }
      start = {_mm256_add_epi32(start.low, _mm256_madd_epi16(words.low, ones)),
               _mm256_add_epi32(start.high, _mm256_madd_epi16(words.high, ones))};
    }
    return start;
  }
};

}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels kernels = make_kernels<Avx2>("avx2");
  return kernels;
}

}  // namespace starchat
