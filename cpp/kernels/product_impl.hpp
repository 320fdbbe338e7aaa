// Products of packed weights and tiles of activations. V: the SIMD operations (kernels_impl.hpp).
// strip_by_strip for float weights, group_by_group for quantized ones. One order of sums; floats:
//   k:      group_sum = fma(weight, activation, group_sum)
//   group:  sum = sum + group_sum
// Quantized weights:
//   part:   dot = exact integer dot product of 32 weights, or of 16 that have a scale
//           group_sum = fma(dot, d · 2^power, group_sum), part by part; then, of weights with
//           minima, fma(m, scaled_sum, group_sum), part by part
//   group:  sum = fma(group_sum, scale of the activations, sum)
#pragma once
#include <type_traits>

#include "kernels/codes_impl.hpp"
#include "kernels/lanes_impl.hpp"

namespace starchat {
namespace {

// The offset at which weights of a kind are multiplied, so that they have no sign: value + offset.
// ActivationBlock::start corrects the dot product.
template <class V>
constexpr int weight_offset(WeightKind kind) {
  const int offset = activation_format(kind).weight_offset;
  return offset < 128 || V::kUnsignedBytes ? offset : 0;
}

// Halves are loaded where they are needed: with expanded ones, products with few columns took
// longer, others as long. Scales of few bits are expanded.
constexpr bool has_expanded_scales(WeightKind kind) { return kind.scales != Scales::Half; }

// Kinds that differ in how they expand their scales have one kernel.
constexpr WeightKind kernel_kind(WeightKind kind) {
  if (!has_expanded_scales(kind)) return kind;
  return {kind.bits, kind.codes, kind.n_parts() == 1 ? Scales::SixBits : Scales::FourBits};
}

// Up to 24 interleaved columns of a batch.
struct Tile {
  const std::byte* columns;  // as in PanelProduct
  int width;                 // number of columns
  float* out;                // of its first column
};

template <WeightKind kKind>
Tile tile_at(const PanelProduct& p, int first) {
  return {p.columns + first * activation_format(kKind).column_bytes(p.n_blocks),
          smaller(p.n_columns - first, kTileColumns),
          p.out + static_cast<size_t>(first) * p.out_stride};
}

// sum[c] += (the V::kLanes rows from `row` on of one strip of floats) · column c, for n_blocks from
// `block` on: one fma for each k, in order.
template <class V, WeightKind kKind, int kColumns>
void float_columns(const std::byte* strip, int block, int n_blocks, const Tile& tile, int row,
                   int first, typename V::F (&sum)[kColumns]) {
  constexpr size_t kElement = kKind.bits / 8;
  const float* x = reinterpret_cast<const float*>(tile.columns) +
                   (static_cast<size_t>(block) * tile.width + first) * kBlock;
  const std::byte* weights =
      strip + (static_cast<size_t>(block) * kBlock * kLanes + row) * kElement;
  for (int b = 0; b < n_blocks; ++b, x += static_cast<size_t>(tile.width) * kBlock) {
    for (int k = 0; k < kBlock; ++k, weights += kLanes * kElement) {
      typename V::F w;
      if constexpr (kKind.codes == Codes::UpperHalf) {
        const auto upper = V::load_words(reinterpret_cast<const uint16_t*>(weights));
        w = V::as_float(V::shift_int(upper, -16));
      } else if constexpr (kKind.bits == 16) {
        w = V::load_half(reinterpret_cast<const uint16_t*>(weights));
      } else {
        w = V::load(reinterpret_cast<const float*>(weights));
      }
#pragma GCC unroll 24
      for (int c = 0; c < kColumns; ++c) sum[c] = V::fma(w, V::set1(x[c * kBlock + k]), sum[c]);
    }
  }
}

template <class V>
void store_sum(const PanelProduct& p, typename V::F sum, int row, float* out) {
  if (p.bias != nullptr) sum = V::add(sum, V::load(p.bias + row));
  if (p.accumulate) sum = V::add(sum, V::load(out));
  V::store(out, sum);
}

template <class V, WeightKind kKind, int kColumns>
void strip_columns(const PanelProduct& p, int strip, const Tile& tile, int first) {
  const std::byte* weights = p.strips + strip * p.strip_bytes;
  for (int row = 0; row < kLanes; row += V::kLanes) {
    alignas(64) float sums[kColumns * V::kLanes] = {};  // registers are for those of a group
    for (int block = 0; block < p.n_blocks; block += kGroupBlocks) {
      typename V::F group_sum[kColumns];
      for (auto& s : group_sum) s = V::set1(0.0f);
      float_columns<V, kKind, kColumns>(weights, block, smaller(kGroupBlocks, p.n_blocks - block),
                                        tile, row, first, group_sum);
      for (int c = 0; c < kColumns; ++c) {
        float* sum = sums + c * V::kLanes;
        V::store(sum, V::add(V::load(sum), group_sum[c]));
      }
    }
    const int at = strip * kLanes + row;
    for (int c = 0; c < kColumns; ++c) {
      store_sum<V>(p, V::load(sums + c * V::kLanes), at,
                   tile.out + static_cast<size_t>(first + c) * p.out_stride + at);
    }
  }
}

template <class V, WeightKind kKind>
void strip_by_strip(const PanelProduct& p) {
  for (int strip = 0; strip < p.n_strips; ++strip) {
    for (int first = 0; first < p.n_columns; first += kTileColumns) {
      const Tile tile = tile_at<kKind>(p, first);
      int c = 0;
      if constexpr (V::kMaxColumns >= 24) {
        for (; c + 24 <= tile.width; c += 24) strip_columns<V, kKind, 24>(p, strip, tile, c);
      }
      if constexpr (V::kMaxColumns >= 16) {
        for (; c + 16 <= tile.width; c += 16) strip_columns<V, kKind, 16>(p, strip, tile, c);
      }
      if constexpr (V::kMaxColumns >= 8) {
        for (; c + 8 <= tile.width; c += 8) strip_columns<V, kKind, 8>(p, strip, tile, c);
      }
      for (; c + 4 <= tile.width; c += 4) {
        strip_columns<typename V::Rows, kKind, 4>(p, strip, tile, c);
      }
      for (; c + 2 <= tile.width; c += 2) strip_columns<V, kKind, 2>(p, strip, tile, c);
      for (; c < tile.width; ++c) strip_columns<V, kKind, 1>(p, strip, tile, c);
    }
  }
}

constexpr int kCacheLine = 64;

// Where the scales of a pair of blocks are, for each strip.
struct PairScales {
  const std::byte* halves;   // of the first strip, where they are not expanded
  const GroupScales *d, *m;  // where they are
};

// sum (kColumns, V::kPanelStrips) += product of a block with kColumns columns, for V::kLanes rows
// from `row` on. codes: of the first strip; block: of the group; in_pair: 0 or 1.
template <class V, WeightKind kKind, int kColumns>
[[gnu::always_inline]] inline void add_block(const std::byte* codes, size_t strip_bytes, int row,
                                             const PairScales& scales, int block, int in_pair,
                                             const ActivationBlock<kKind.n_parts()>* x,
                                             typename V::F (&sum)[kColumns][V::kPanelStrips]) {
  using F = typename V::F;
  constexpr int kParts = kKind.n_parts(), kStrips = V::kPanelStrips;
  // The scales (0) or the minima (1) of a part.
  const auto factor = [&](int strip, int part, int which) {
    if constexpr (has_expanded_scales(kKind)) {
      return V::load((which == 0 ? scales.d : scales.m)[strip][block * kParts + part] + row);
    } else {
      const std::byte* halves = scales.halves + strip * strip_bytes + which * 64 + in_pair * 32;
      return V::load_half(reinterpret_cast<const uint16_t*>(halves) + row);
    }
  };
#pragma GCC unroll 2
  for (int part = 0; part < kParts; ++part) {
    constexpr int kPairs = 4 / kParts;
    typename V::I dot[kColumns][kStrips];
    typename V::Products products[kColumns][kStrips];
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const auto start = V::set1_int(weight_offset<V>(kKind) != 0 ? x[c].start[part] : 0);
      for (int s = 0; s < kStrips; ++s) dot[c][s] = start;
    }
#pragma GCC unroll 4
    for (int i = 0; i < kPairs; ++i) {
      const int pair = part * kPairs + i;
      typename V::Quad quad[kStrips][2];
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) {
        unpack_pair<V, kKind.bits>(codes + s * strip_bytes + 4 * row, pair, quad[s]);
        for (auto& q : quad[s]) {
          if constexpr (kKind.codes == Codes::Table) q = V::look_up(q);
          if constexpr (kKind.codes == Codes::Signed) q = V::signed_bytes(q);
        }
      }
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) {
          const auto four = V::four_bytes(x[c].q + 4 * quad_of_pair(kKind.bits, pair, h));
#pragma GCC unroll 2
          for (int s = 0; s < kStrips; ++s) {
            V::template add_dot<kKind.codes == Codes::Table ? 8 : kKind.bits>(
                dot[c][s], products[c][s], quad[s][h], four, 2 * i + h, 2 * kPairs);
          }
        }
      }
    }
    F d[kStrips];
#pragma GCC unroll 2
    for (int s = 0; s < kStrips; ++s) d[s] = factor(s, part, 0);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const auto power = V::set1_int(x[c].power);
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) {
        sum[c][s] = V::fma(V::to_float(dot[c][s]), times_power_of_two<V>(d[s], power), sum[c][s]);
      }
    }
  }
  if constexpr (kKind.has_min()) {
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      F m[kStrips];
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) m[s] = factor(s, part, 1);
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        const F scaled_sum = V::set1(x[c].scaled_sum[part]);
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) sum[c][s] = V::fma(m[s], scaled_sum, sum[c][s]);
      }
    }
  }
}

template <class V, int kColumns>
void set_zero(typename V::F (&sum)[kColumns][V::kPanelStrips]) {
#pragma GCC unroll 8
  for (auto& of_column : sum) {
    for (auto& s : of_column) s = V::set1(0.0f);
  }
}

// All columns of a step that has few, at most V::kFewColumns: weights come from memory or from a
// distant cache and are used once. strips: V::kPanelStrips of them.
//
// Rows of more than two groups come from memory. With one column or two, processors fetch a single
// long stream best themselves: V is for one strip, and nothing is prefetched but for codes of few
// bits, which take long to compute (Zen 4: 1.03 to 1.2 times as fast as with prefetching). Shorter
// rows are those of small models, which the L3 cache holds.
constexpr int kShortRow = 2 * kGroupBlocks;

template <class V, WeightKind kKind, int kColumns>
[[gnu::noinline]] void row_by_row(const PanelProduct& p, int first_strip) {
  using F = typename V::F;
  constexpr StripLayout layout{kKind};
  constexpr int kStrips = V::kPanelStrips, kAhead = kGroupBlocks / 2;
  constexpr int kGroupBytes = static_cast<int>(layout.group_bytes(kGroupBlocks));
  constexpr int kLines = (kGroupBytes / kCacheLine + kAhead - 1) / kAhead;  // of a pair
  const size_t strip_bytes = p.strip_bytes;
  const std::byte* strips = p.strips + first_strip * strip_bytes;
  const std::byte* const next = strips + kStrips * strip_bytes;
  const auto* x = reinterpret_cast<const ActivationBlock<kKind.n_parts()>*>(p.columns);
  const auto* x_scales = reinterpret_cast<const float*>(
      p.columns + activation_format(kKind).scales_offset(p.n_blocks, kColumns));
  const bool prefetches = kColumns > 2 || kKind.bits < 4 || p.n_blocks <= kShortRow;
  alignas(64) GroupScales d[kStrips], m[kStrips];
  F sum[kColumns][kStrips];
  set_zero<V, kColumns>(sum);
  for (int first = 0; first < p.n_blocks; first += kGroupBlocks, strips += kGroupBytes) {
    const int n = smaller(kGroupBlocks, p.n_blocks - first);
    if constexpr (has_expanded_scales(kKind)) {
      for (int s = 0; s < kStrips; ++s) {
        for (int row = 0; row < kLanes; row += V::Rows::kLanes) {
          expand_scales<typename V::Rows, kKind>(strips + s * strip_bytes, n, row, d[s], m[s]);
        }
      }
    }
    F group_sum[kColumns][kStrips];
    set_zero<V, kColumns>(group_sum);
    const std::byte* codes = strips + layout.codes_offset(n, 0);
    for (int b = 0; b < n; b += 2, codes += layout.pair_bytes(), x += 2 * kColumns) {
      const int ahead = first + b + kAhead - p.n_blocks;  // blocks beyond the end of the row
      const std::byte* lines = ahead < 0 ? strips + (b + kAhead) / 2 * kLines * kCacheLine
                                         : next + ahead / 2 * kLines * kCacheLine;
      // In two parts, between which the compiler must not move anything: all lines at once are more
      // than the processor takes without waiting.
      const auto prefetch = [&](int begin, int end) __attribute__((always_inline)) {
        if (!prefetches) return;
        asm volatile("" ::: "memory");
        for (int i = begin; i < end; ++i) {
          for (int s = 0; s < kStrips; ++s) {
            __builtin_prefetch(lines + i * kCacheLine + s * strip_bytes, 0, 3);
          }
        }
        asm volatile("" ::: "memory");
      };
      const PairScales scales{codes - layout.n_halves() * 64, d, m};
      prefetch(0, kLines / 2);
      add_block<V, kKind, kColumns>(codes, strip_bytes, 0, scales, b, 0, x, group_sum);
      if (b + 1 == n) break;
      prefetch(kLines / 2, kLines);
      add_block<V, kKind, kColumns>(codes + layout.codes_bytes(), strip_bytes, 0, scales, b + 1, 1,
                                    x + kColumns, group_sum);
    }
    for (int c = 0; c < kColumns; ++c) {
      const F scale = V::set1(*x_scales++);
      for (int s = 0; s < kStrips; ++s) sum[c][s] = V::fma(group_sum[c][s], scale, sum[c][s]);
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    for (int s = 0; s < kStrips; ++s) {
      const int row = (first_strip + s) * kLanes;
      store_sum<V>(p, sum[c][s], row, p.out + static_cast<size_t>(c) * p.out_stride + row);
    }
  }
}

// A sweep reads the panel once, group by group, for up to 72 columns: a group stays in the L1 cache
// while all of them are multiplied with it, and its scales are made floats only once. The next
// group is prefetched meanwhile, a few cache lines for each block, so that memory is read at an
// even rate. Where V::kPanelStrips is 2, each activation that is loaded serves both strips.
constexpr int kSweepColumns = 72;  // 3 tiles: their activations of a group take 46 KB of L2

// A group of blocks of one strip or two.
struct Group {
  const std::byte* codes;  // of the first strip
  size_t strip_bytes;      // from one strip to the next
  int n_blocks;
  const GroupScales *d, *m;  // of each strip, where they are expanded
};

// What to prefetch: n_lines cache lines of each strip for every block.
struct Prefetch {
  const std::byte *lines, *from_middle;  // for the first half of a group, for the second half
  int n_lines;
};

// sums (kColumns, V::kPanelStrips, 16) += product of a group with kColumns columns, for V::kLanes
// rows from `row` on; "=" instead of "+=" for the first group.
template <class V, WeightKind kKind, int kColumns>
[[gnu::noinline]] void add_group(const Group& group, int row,
                                 const ActivationBlock<kKind.n_parts()>* x, const float* x_scales,
                                 int tile_width, bool is_first, float* sums, Prefetch prefetch) {
  using F = typename V::F;
  constexpr StripLayout layout{kKind};
  constexpr int kStrips = V::kPanelStrips;
  F sum[kColumns][kStrips];
  set_zero<V, kColumns>(sum);
  const std::byte* pair = group.codes;
  for (int b = 0; b < group.n_blocks; ++b, x += tile_width) {
    if (b == kGroupBlocks / 2) prefetch.lines = prefetch.from_middle;
    for (int i = 0; i < prefetch.n_lines; ++i, prefetch.lines += kCacheLine) {
      for (int s = 0; s < kStrips; ++s) {
        __builtin_prefetch(prefetch.lines + s * group.strip_bytes, 0, 3);
      }
    }
    const int in_pair = b % 2;
    add_block<V, kKind, kColumns>(pair + in_pair * layout.codes_bytes(), group.strip_bytes, row,
                                  {pair - layout.n_halves() * 64, group.d, group.m}, b, in_pair, x,
                                  sum);
    pair += in_pair * layout.pair_bytes();
  }
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) {
    const F scale = V::set1(x_scales[c]);
    for (int s = 0; s < kStrips; ++s, sums += kLanes) {
      float* out = sums + row;
      V::store(out, V::fma(sum[c][s], scale, is_first ? V::set1(0.0f) : V::load(out)));
    }
  }
}

// add_group for all rows and for a number of columns that is known at run time.
template <class V, WeightKind kKind, int kColumns = V::Rows::kPanelColumns>
void add_some_columns(int n_columns, const Group& group, const ActivationBlock<kKind.n_parts()>* x,
                      const float* x_scales, int tile_width, bool is_first, float* sums,
                      Prefetch prefetch) {
  using Rows = typename V::Rows;
  if (n_columns == kColumns) {
    add_group<Rows, kKind, kColumns>(group, 0, x, x_scales, tile_width, is_first, sums, prefetch);
    for (int row = Rows::kLanes; row < kLanes; row += Rows::kLanes) {
      add_group<Rows, kKind, kColumns>(group, row, x, x_scales, tile_width, is_first, sums, {});
    }
  } else if constexpr (kColumns > 1) {
    add_some_columns<V, kKind, kColumns - 1>(n_columns, group, x, x_scales, tile_width, is_first,
                                             sums, prefetch);
  }
}

// strips: V::kPanelStrips of them, or one that is multiplied in the place of both.
template <class V, WeightKind kKind>
void group_by_group(const PanelProduct& p, int first_strip) {
  constexpr auto passes = [](int width) {
    return (width + V::Rows::kPanelColumns - 1) / V::Rows::kPanelColumns;
  };
  constexpr StripLayout layout{kKind};
  constexpr WeightKind kernel = kernel_kind(kKind);
  constexpr ActivationFormat format = activation_format(kKind);
  constexpr int kStrips = V::kPanelStrips;
  constexpr int kGroupBytes = static_cast<int>(layout.group_bytes(kGroupBlocks));
  const std::byte* const first_group = p.strips + first_strip * p.strip_bytes;
  const int n_strips = smaller(kStrips, p.n_strips - first_strip);
  const size_t strip_bytes = n_strips == kStrips ? p.strip_bytes : 0;
  float* const first_out = p.out + first_strip * kLanes;
  alignas(64) float sums[kSweepColumns * kStrips * kLanes];
  alignas(64) GroupScales d[kStrips], m[kStrips];
  for (int begin = 0; begin < p.n_columns; begin += kSweepColumns) {  // a sweep
    const int end = smaller(begin + kSweepColumns, p.n_columns), n_sweep = end - begin;
    const int n_passes =
        n_sweep / kTileColumns * passes(kTileColumns) + passes(n_sweep % kTileColumns);
    const std::byte* strips = first_group;
    for (int block = 0; block < p.n_blocks; block += kGroupBlocks, strips += kGroupBytes) {
      const int n = smaller(kGroupBlocks, p.n_blocks - block);
      const std::byte* next = block + n < p.n_blocks ? strips + kGroupBytes
                              : end < p.n_columns    ? first_group
                                                     : first_group + kStrips * p.strip_bytes;
      const std::byte* end_of_next = next + kGroupBytes;
      const int n_fetches = n_passes * n;
      const int n_lines = (kGroupBytes / kCacheLine + n_fetches - 1) / n_fetches;
      if constexpr (has_expanded_scales(kKind)) {
        for (int s = 0; s < kStrips; ++s) {
          for (int row = 0; row < kLanes; row += V::Rows::kLanes) {
            expand_scales<typename V::Rows, kKind>(strips + s * strip_bytes, n, row, d[s], m[s]);
          }
        }
      }
      const Group group{strips + layout.codes_offset(n, 0), strip_bytes, n, d, m};
      for (int first = begin; first < end; first += kTileColumns) {
        const Tile tile = tile_at<kKind>(p, first);
        const auto* x = reinterpret_cast<const ActivationBlock<kKind.n_parts()>*>(tile.columns) +
                        static_cast<size_t>(block) * tile.width;
        const float* x_scales = reinterpret_cast<const float*>(
                                    tile.columns + format.scales_offset(p.n_blocks, tile.width)) +
                                block / kGroupBlocks * tile.width;
        for (int c = 0; c < tile.width;) {
          const int left = tile.width - c, n_left = passes(left);
          const int n_columns = (left + n_left - 1) / n_left;  // passes of nearly equal width
          // A single pass is too short to fetch a whole group: prefetch half a group ahead.
          const std::byte* middle = next + n_lines * (kGroupBlocks / 2) * kCacheLine;
          const Prefetch prefetch = n_passes == 1
                                        ? Prefetch{strips + kGroupBytes / 2, next, n_lines}
                                        : Prefetch{next, middle, next < end_of_next ? n_lines : 0};
          add_some_columns<V, kernel>(n_columns, group, x + c, x_scales + c, tile.width, block == 0,
                                      sums + (first - begin + c) * kStrips * kLanes, prefetch);
          next += n_lines * n * kCacheLine;
          c += n_columns;
        }
      }
    }
    for (int c = begin; c < end; ++c) {
      for (int at = 0; at < n_strips * kLanes; at += V::kLanes) {
        store_sum<V>(p, V::load(sums + (c - begin) * kStrips * kLanes + at),
                     first_strip * kLanes + at,
                     first_out + static_cast<size_t>(c) * p.out_stride + at);
      }
    }
  }
}

template <class V, WeightKind kKind, int kColumns = V::kFewColumns>
auto few_columns(int n_columns) -> void (*)(const PanelProduct&, int) {
  if constexpr (kColumns > 1) {
    if (n_columns < kColumns) return few_columns<V, kKind, kColumns - 1>(n_columns);
  }
  return row_by_row<V, kKind, kColumns>;
}

// The operations of V on one strip at a time.
template <class V>
struct OneStrip : V {
  static constexpr int kPanelStrips = 1;
};

template <class V, WeightKind kKind>
void panel_product(const PanelProduct& p) {
  if constexpr (kKind.is_float()) {
    strip_by_strip<V, kKind>(p);
  } else {
    auto product = group_by_group<V, kKind>;
    int n_strips = V::kPanelStrips;  // that it takes at a time
    if constexpr (V::kFewColumns > 0) {
      const bool is_whole = p.n_strips % V::kPanelStrips == 0;
      if (p.n_columns <= 2 && !(is_whole && p.n_blocks <= kShortRow)) {
        using One = std::conditional_t<V::kPanelStrips == 1, V, OneStrip<V>>;
        product = p.n_columns == 1 ? row_by_row<One, kKind, 1> : row_by_row<One, kKind, 2>;
        n_strips = 1;
      } else if (is_whole && p.n_columns <= V::kFewColumns) {
        product = few_columns<V, kKind>(p.n_columns);
      }
    }
    for (int strip = 0; strip < p.n_strips; strip += n_strips) product(p, strip);
  }
}

}  // namespace
}  // namespace starchat
