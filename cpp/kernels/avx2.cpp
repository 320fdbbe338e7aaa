// AVX2 with FMA and F16C: 16 lanes are two registers. A 4-bit block of 8 rows takes, for each
// column, 8 VPMADDUBSW, 7 additions, one widening to 32 bits, one conversion to float and one fma.
#include "kernels/avx2_half.hpp"
#include "kernels/double_width.hpp"
#include "kernels/kernels_impl.hpp"

namespace starchat {
namespace {

struct Avx2 : DoubleWidth<Avx2Half> {
  static constexpr int kMaxColumns = 4;
  static constexpr int kPanelStrips = 1;
  static constexpr int kFewColumns = 2;  // row by row: their sums, of 16 rows, fit into registers
  static constexpr int kVectors = 1;     // of keys or values in one pass of attention
  using Rows = Avx2Half;                 // 8 rows at a time: 4 columns fit into 16 registers
};

}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels kernels = make_kernels<Avx2>("avx2");
  return kernels;
}

}  // namespace starchat
