// AVX2 with AVX-VNNI: VPDPBUSD on registers of 256 bits (Intel from the 12th generation on, AMD
// from Zen 5 on). A 4-bit block of 8 rows takes, for each column, 8 VPDPBUSD, one conversion to
// float and one fma. Compiled twice: for AVX-VNNI, and for processors that have the instruction in
// AVX-512 alone, where tests compare its bits.
#include "kernels/avx2_half.hpp"
#include "kernels/double_width.hpp"
#include "kernels/kernels_impl.hpp"

namespace starchat {
namespace {

struct AvxVnniHalf : Avx2Half {
  struct Products {};  // 16-bit sums: VPDPBUSD needs none
  static constexpr int kPanelColumns = 6;
  static constexpr bool kUnsignedBytes = true;  // VPDPBUSD multiplies unsigned by signed bytes

  // Both add 128: weight_offset().
  static Quad signed_bytes(Quad x) {
    return _mm256_xor_si256(x, _mm256_set1_epi8(static_cast<char>(0x80)));
  }
  static Quad look_up(Quad codes) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kCodeValues));
    return _mm256_shuffle_epi8(signed_bytes(_mm256_broadcastsi128_si256(table)), codes);
  }
  template <int kBits>
  static void add_dot(I& sum, Products&, Quad quad, I four, int, int) {
#ifdef __AVXVNNI__
    sum = _mm256_dpbusd_avx_epi32(sum, quad, four);
#else
    sum = _mm256_dpbusd_epi32(sum, quad, four);
#endif
  }
};

struct AvxVnni : DoubleWidth<AvxVnniHalf> {
  static constexpr int kMaxColumns = 4;
  static constexpr int kPanelStrips = 1;
  static constexpr int kFewColumns = 2;  // row by row: their sums, of 16 rows, fit into registers
  static constexpr int kVectors = 1;     // of keys or values in one pass of attention
  using Rows = AvxVnniHalf;              // 8 rows at a time: 6 columns fit into 16 registers
};

}  // namespace

#ifdef __AVXVNNI__
const Kernels& avxvnni_kernels() {
#else
const Kernels& avxvnni_kernels_of_avx512() {
#endif
  static const Kernels kernels = make_kernels<AvxVnni>("avxvnni");
  return kernels;
}

}  // namespace starchat
