// AVX2 with FMA and F16C: 16 lanes are two registers. Dot products use VPMADDUBSW, whose 16-bit
// sums are added until they could exceed 32767: 8 terms of 4 bits (8·2·15·127 = 30480), 4 terms of
// 5 bits (4·2·31·127 = 31496), 1 term of 8 bits (2·128·127 = 32512; the weight's sign moves to the
// activation, because one operand is unsigned). A 4-bit block of 8 rows takes, for each column, 8
// VPMADDUBSW, 7 additions, one widening to 32 bits, one conversion to float and one fma.
#include <immintrin.h>

#include "kernels/double_width.hpp"
#include "kernels/kernels_impl.hpp"

namespace starchat {
namespace {

struct Avx2Half {
  using F = __m256;
  using I = __m256i;
  struct Quads {
    __m256i q[8];
  };
  static constexpr int kLanes = 8;
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

  static __m256i load_bytes(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }

  template <int kBits>
  static Quads unpack(const std::byte* qs, const std::byte* qh) {
    Quads quads;
    if constexpr (kBits == 8) {
      for (int j = 0; j < 8; ++j) quads.q[j] = load_bytes(qs + 64 * j);
    } else if constexpr (kBits == 4) {
      const __m256i low4 = _mm256_set1_epi8(0x0f);
      for (int j = 0; j < 4; ++j) {
        const __m256i packed = load_bytes(qs + 64 * j);
        quads.q[j] = _mm256_and_si256(packed, low4);
        quads.q[j + 4] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low4);
      }
    } else {
      const __m256i low5 = _mm256_set1_epi8(0x1f), low3 = _mm256_set1_epi8(0x07);
      const __m256i bits34 = _mm256_set1_epi8(0x18), high = load_bytes(qh);
      for (int j = 0; j < 4; ++j) {
        const __m256i packed = load_bytes(qs + 64 * j);
        const __m256i high_at_bit3 =
            j < 2 ? _mm256_slli_epi16(high, 3 - 2 * j) : _mm256_srli_epi16(high, 2 * j - 3);
        quads.q[j] = _mm256_and_si256(packed, low5);
        quads.q[j + 4] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(packed, 5), low3),
                                         _mm256_and_si256(high_at_bit3, bits34));
      }
    }
    return quads;
  }

  template <int kBits>
  static I dot(I start, const Quads& quads, const int8_t* q) {
    constexpr int kTerms = kBits == 4 ? 8 : kBits == 5 ? 4 : 1;
    for (int j = 0; j < 8; j += kTerms) {
      __m256i words{};
      for (int t = 0; t < kTerms; ++t) {
        int32_t bytes;
        __builtin_memcpy(&bytes, q + 4 * (j + t), 4);
        __m256i four = _mm256_set1_epi32(bytes), quad = quads.q[j + t];
        if constexpr (kBits == 8) {
          four = _mm256_sign_epi8(four, quad);
          quad = _mm256_abs_epi8(quad);
        }
        const __m256i products = _mm256_maddubs_epi16(quad, four);
        words = t == 0 ? products : _mm256_add_epi16(words, products);
      }
      start = _mm256_add_epi32(start, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
    }
    return start;
  }
  template <int kBits, int kColumns>
  static void add_dots(I (&sum)[kColumns], const Quads& quads, const ActivationBlock* x) {
    for (int c = 0; c < kColumns; ++c) sum[c] = dot<kBits>(sum[c], quads, x[c].q);
  }
};

struct Avx2 : DoubleWidth<Avx2Half> {
  static constexpr int kMaxColumns = 4;
  static constexpr int kPanelColumns = 0;  // products go strip by strip
  static constexpr int kVectors = 1;       // of keys or values in one pass of attention
  using Rows = Avx2Half;                   // 8 rows at a time: 4 columns fit into 16 registers
};

}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels kernels = make_kernels<Avx2>("avx2");
  return kernels;
}

}  // namespace starchat
