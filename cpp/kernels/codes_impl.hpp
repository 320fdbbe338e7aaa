// From a group of a strip (StripLayout has its layout) to what products multiply: codes to signed
// or unsigned bytes, scales and minima to floats. V: see kernels_impl.hpp.
#pragma once
#include "kernels/lanes_impl.hpp"

namespace starchat {
namespace {

// The quads of a pair, the first and the second. Four pairs are a block; a part that has a scale of
// its own has whole pairs, beginning with its first.
constexpr int quad_of_pair(int bits, int pair, int second) {
  return bits == 4 || bits == 5 || bits == 8 ? pair + 4 * second : 2 * pair + second;
}

// The codes of a pair of a block. Shifts move bits across bytes: what comes from a neighbour is
// masked. Inlined: `pair` is a constant then, and so are the shifts.
template <class V, int kBits>
[[gnu::always_inline]] inline void unpack_pair(const std::byte* codes, int pair,
                                               typename V::Quad (&two)[2]) {
  const auto vector = [=](int i) { return V::load_bytes(codes + 64 * i); };
  if constexpr (kBits == 8) {
    two[0] = vector(pair);
    two[1] = vector(pair + 4);
  } else if constexpr (kBits == 4) {
    const auto both = vector(pair);
    two[0] = V::and_bytes(both, 0x0f);
    two[1] = V::and_bytes(V::shift_bytes(both, 4), 0x0f);
  } else if constexpr (kBits == 5) {
    const auto low = vector(1 + pair);
    two[0] = V::and_bytes(low, 0x1f);
    two[1] = V::and_bytes(
        V::select_bytes(0x07, V::shift_bytes(low, 5), V::shift_bytes(vector(0), 2 * pair - 3)),
        0x1f);
  } else if constexpr (kBits == 6) {
    const int part = pair / 2;
    const auto low = vector(3 * part + 1 + pair % 2);
    two[0] = V::and_bytes(low, 0x3f);
    two[1] = V::and_bytes(V::select_bytes(0x03, V::shift_bytes(low, 6),
                                          V::shift_bytes(vector(3 * part), pair % 2 * 4 - 2)),
                          0x3f);
  } else if constexpr (kBits == 3) {
    const int part = pair / 2;
    const auto low = vector(part);
    if (pair % 2 == 0) {
      two[0] = V::and_bytes(low, 0x07);
      two[1] = V::and_bytes(V::shift_bytes(low, 3), 0x07);
    } else {
      const auto rest = vector(2);
      two[0] = V::and_bytes(V::shift_bytes(rest, 3 * part), 0x07);
      two[1] = V::and_bytes(
          V::select_bytes(0x03, V::shift_bytes(low, 6), V::shift_bytes(rest, 4 + part)), 0x07);
    }
  } else {
    static_assert(kBits == 2);
    const auto four = vector(pair / 2);
    two[0] = V::and_bytes(V::shift_bytes(four, pair % 2 * 4), 0x03);
    two[1] = V::and_bytes(V::shift_bytes(four, pair % 2 * 4 + 2), 0x03);
  }
}

// One float for each part of a block and each row.
using GroupScales = float[2 * kGroupBlocks][kLanes];

// Writes the scales d and the minima m of one group, V::kLanes rows from `row` on. Everything here
// is exact: d has 11 bits, what it is multiplied with at most 8.
template <class V, WeightKind kKind>
void expand_scales(const std::byte* group, int n_blocks, int row, GroupScales& d, GroupScales& m) {
  using I = typename V::I;
  constexpr StripLayout layout{kKind};
  const auto and_int = [](I x, uint32_t mask) {
    return V::and_int(x, V::set1_int(static_cast<int32_t>(mask)));
  };
  const int n = layout.file_blocks(n_blocks);
  for (int block = 0; block < n; ++block) {
    const auto half = [=](int i) {
      return reinterpret_cast<const uint16_t*>(group + layout.half_offset(n_blocks, block, i)) +
             row;
    };
    const auto word = [=](int i) {
      return V::load_int(group + static_cast<size_t>(block * layout.n_words() + i) * 64 + 4 * row);
    };
    const auto scale = V::load_half(half(0));
    // d[first + i] = scale · (byte i of four - offset)
    const auto four = [=](GroupScales& out, int first, auto factor, I bytes, int offset) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const I one = and_int(V::shift_int(bytes, 8 * i), 255);
        V::store(out[first + i] + row,
                 V::mul(factor, V::to_float(V::add_int(one, V::set1_int(-offset)))));
      }
    };
    if constexpr (kKind.scales == Scales::SixBits) {
      const auto minus = V::sub(V::set1(-0.0f), V::load_half(half(1)));
      const I scales = word(0), minima = word(1), rest = word(2);
      four(d, 8 * block, scale, and_int(scales, 0x3f3f3f3f), 0);
      four(m, 8 * block, minus, and_int(minima, 0x3f3f3f3f), 0);
      four(d, 8 * block + 4, scale,
           V::or_int(and_int(rest, 0x0f0f0f0f), and_int(V::shift_int(scales, 2), 0x30303030)), 0);
      four(m, 8 * block + 4, minus,
           V::or_int(and_int(V::shift_int(rest, 4), 0x0f0f0f0f),
                     and_int(V::shift_int(minima, 2), 0x30303030)),
           0);
    } else if constexpr (kKind.scales == Scales::FourBits) {
      const auto minus = V::sub(V::set1(-0.0f), V::load_half(half(1)));
      for (int i = 0; i < 4; ++i) {
        const I both = word(i);
        four(d, 16 * block + 4 * i, scale, and_int(both, 0x0f0f0f0f), 0);
        four(m, 16 * block + 4 * i, minus, and_int(V::shift_int(both, 4), 0x0f0f0f0f), 0);
      }
    } else if constexpr (kKind.scales == Scales::SixBits16) {
      const I high = word(2);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const I low = V::shift_int(word(i % 2), i / 2 * 4);
        four(
            d, 16 * block + 4 * i, scale,
            V::or_int(and_int(low, 0x0f0f0f0f), and_int(V::shift_int(high, 2 * i - 4), 0x30303030)),
            32);
      }
    } else if constexpr (kKind.scales == Scales::EightBits) {
      for (int i = 0; i < 4; ++i) {  // signed: x = ((x + 128) mod 256) - 128
        const I bytes = word(i);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const I one = and_int(V::add_int(V::shift_int(bytes, 8 * j), V::set1_int(128)), 255);
          V::store(d[16 * block + 4 * i + j] + row,
                   V::mul(scale, V::to_float(V::add_int(one, V::set1_int(-128)))));
        }
      }
    } else if constexpr (kKind.scales == Scales::SixBitsSplit) {
      const I low = word(0), high = V::load_words(half(1));
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const I code = V::or_int(and_int(V::shift_int(low, 4 * i), 15),
                                 and_int(V::shift_int(high, 2 * i - 4), 48));
        V::store(d[8 * block + i] + row,
                 V::mul(scale, V::to_float(V::add_int(code, V::set1_int(-32)))));
      }
    }
  }
}

}  // namespace
}  // namespace starchat
