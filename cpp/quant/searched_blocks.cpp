#include "quant/searched_blocks.hpp"

#include <array>

#include "quant/scale_search.hpp"

namespace starchat {
namespace {

// For each type: what the weight farthest from zero, or the highest above the lowest, is scaled to
// when scales of parts are searched.

template <size_t n>
constexpr std::array<float, n> range(float first, float step) {
  std::array<float, n> values{};
  for (size_t i = 0; i < n; ++i) values[i] = first + step * static_cast<float>(i);
  return values;
}

constexpr auto kQ2Targets = range<12>(1.6f, 0.2f);

constexpr std::array kQ3Targets = {-4.5f, -4.2f, -4.0f, -3.8f, -3.6f, -3.4f, -3.2f, -3.0f, -2.7f,
                                   -2.4f, 2.0f,  2.3f,  2.6f,  2.8f,  3.0f,  3.2f,  3.4f};

constexpr auto kQ4Targets = range<16>(12.0f, 0.25f);

constexpr auto kQ5Targets = range<16>(28.0f, 0.25f);

constexpr std::array kQ6Targets = {-32.5f, -32.0f, -31.5f, -31.0f, -30.5f, -30.0f, -29.5f,
                                   -29.0f, 31.5f,  31.0f,  30.5f,  30.0f,  29.5f,  29.0f};

constexpr std::array kIQ4Targets = {-135.0f, -127.0f, -121.0f, -115.0f, -109.0f, -104.0f,
                                    -98.0f,  -92.0f,  -86.0f,  83.0f,   89.0f,   95.0f,
                                    101.0f,  107.0f,  113.0f,  119.0f};

// The bits of a run's codes from bit `from` on, n of them, into bits `at` on of 32 bytes.
void put_run(const uint8_t* codes, int from, int n, int at, uint8_t* bytes) {
  for (int k = 0; k < 32; ++k) {
    bytes[k] = static_cast<uint8_t>(bytes[k] | (codes[k] >> from & ((1 << n) - 1)) << at);
  }
}

void put_halves(const uint8_t* codes, uint8_t* bytes) {  // as in Q4_0
  for (int k = 0; k < 16; ++k) {
    bytes[k] = static_cast<uint8_t>(codes[k] | codes[k + 16] << 4);
  }
}

void put(const int (&scales)[8], const int (&minima)[8], SixBitScales& packed) {
  for (int i = 0; i < 4; ++i) {
    packed.bytes[i] = static_cast<uint8_t>(scales[i] | scales[i + 4] >> 4 << 6);
    packed.bytes[i + 4] = static_cast<uint8_t>(minima[i] | minima[i + 4] >> 4 << 6);
    packed.bytes[i + 8] = static_cast<uint8_t>((scales[i + 4] & 15) | (minima[i + 4] & 15) << 4);
  }
}

// All of a block with packed scales and minima but the codes' bits above the lowest four.
template <int kMaxCode, class Block>
ScaledBlockWithMinima<32, 8> pack_searched(const float* src, const float* columns,
                                           const std::array<float, 16>& targets, Block& block) {
  ScaledBlockWithMinima<32, 8> found;
  MinimumSearch<kMaxCode, 32, 8, 63>(src, columns, targets).run(found);
  block = {};
  block.d = found.d;
  block.dmin = found.dmin;
  put(found.scales, found.minima, block.scales);
  for (int run = 0; run < 8; ++run) {
    put_run(found.codes + 32 * run, 0, 4, run % 2 * 4, block.qs + run / 2 * 32);
  }
  return found;
}

}  // namespace

bool quantize_block(const float* src, const float* columns, BlockQ2_K& block) {
  ScaledBlockWithMinima<16, 16> found;
  MinimumSearch<3, 16, 16, 15>(src, columns, kQ2Targets).run(found);
  block = {};
  block.d = found.d;
  block.dmin = found.dmin;
  for (int i = 0; i < 16; ++i) {
    block.scales[i] = static_cast<uint8_t>(found.scales[i] | found.minima[i] << 4);
  }
  for (int run = 0; run < 8; ++run) {
    put_run(found.codes + 32 * run, 0, 2, run % 4 * 2, block.qs + run / 4 * 32);
  }
  return is_finite(block.d) && is_finite(block.dmin);
}

bool quantize_block(const float* src, const float* columns, BlockQ3_K& block) {
  ScaledBlock<16, 16> found;
  ScaleSearch<WholeNumbers<-4, 3>, 16, 16, 32>(src, columns, kQ3Targets).run(found);
  block = {};
  block.d = found.d;
  for (int i = 0; i < 16; ++i) {
    const int number = found.scales[i] + 32;
    block.scales[i % 8] |= static_cast<uint8_t>((number & 15) << i / 8 * 4);
    block.scales[8 + i % 4] |= static_cast<uint8_t>(number >> 4 << i / 4 * 2);
  }
  for (int run = 0; run < 8; ++run) {
    put_run(found.codes + 32 * run, 0, 2, run % 4 * 2, block.qs + run / 4 * 32);
    put_run(found.codes + 32 * run, 2, 1, run, block.hmask);
  }
  return is_finite(block.d);
}

bool quantize_block(const float* src, const float* columns, BlockQ4_K& block) {
  pack_searched<15>(src, columns, kQ4Targets, block);
  return is_finite(block.d) && is_finite(block.dmin);
}

bool quantize_block(const float* src, const float* columns, BlockQ5_K& block) {
  const auto found = pack_searched<31>(src, columns, kQ5Targets, block);
  for (int run = 0; run < 8; ++run) {
    put_run(found.codes + 32 * run, 4, 1, run, block.qh);
  }
  return is_finite(block.d) && is_finite(block.dmin);
}

bool quantize_block(const float* src, const float* columns, BlockQ6_K& block) {
  ScaledBlock<16, 16> found;
  ScaleSearch<WholeNumbers<-32, 31>, 16, 16, 128>(src, columns, kQ6Targets).run(found);
  block = {};
  block.d = found.d;
  for (int i = 0; i < 16; ++i) block.scales[i] = static_cast<uint8_t>(found.scales[i]);
  for (int run = 0; run < 8; ++run) {
    const uint8_t* const codes = found.codes + 32 * run;
    put_run(codes, 0, 4, run % 4 / 2 * 4, block.ql + run / 4 * 64 + run % 2 * 32);
    put_run(codes, 4, 2, run % 4 * 2, block.qh + run / 4 * 32);
  }
  return is_finite(block.d);
}

bool quantize_block(const float* src, const float* columns, BlockIQ4_XS& block) {
  ScaledBlock<32, 8> found;
  ScaleSearch<TableValues, 32, 8, 32>(src, columns, kIQ4Targets).run(found);
  block = {};
  block.d = found.d;
  for (int i = 0; i < 8; ++i) {
    const int number = found.scales[i] + 32;
    block.scales_l[i / 2] |= static_cast<uint8_t>((number & 15) << i % 2 * 4);
    block.scales_h = static_cast<uint16_t>(block.scales_h | number >> 4 << 2 * i);
    put_halves(found.codes + 32 * i, block.qs + 16 * i);
  }
  return is_finite(block.d);
}

bool quantize_block(const float* src, const float* columns, BlockIQ4_NL (&blocks)[4]) {
  Parts4<32> parts;
  parts.load(src, columns, 32);
  Floats4 wanted = search_scale<TableValues>(parts, kIQ4Targets);
  Floats4 best = all4(INFINITY), least = best;  // where no error is finite
  for (int i = 0; i <= kRounds; ++i) {
    Floats4 d;
    for (int lane = 0; lane < 4; ++lane) d[lane] = f16_to_f32(scale_half(wanted[lane]));
    const ScaleSums sums = scale_sums<TableValues>(parts, inverse4(d));
    const Floats4 error = sums.error(d);
    best = error < least ? d : best;
    least = min4(error, least);
    wanted = sums.scale();
  }
  best = least > 0.0f && least < INFINITY ? all4(0.0f) : best;  // tiny weights
  bool fits = true;
  const Floats4 inverse = inverse4(best);
  for (int lane = 0; lane < 4; ++lane) {
    BlockIQ4_NL& block = blocks[lane];
    uint8_t codes[32];
    block.d = f32_to_f16(best[lane]);
    for (int k = 0; k < 32; ++k) {
      codes[k] = TableValues::code(TableValues::nearest(parts.x[k] * inverse)[lane]);
    }
    put_halves(codes, block.qs);
    fits &= is_finite(block.d);
  }
  return fits;
}

}  // namespace starchat
