// Products of packed weights and tiles of activations. V: the SIMD operations (kernels_impl.hpp).
// Two loops, one order of sums: strip_by_strip, and group_by_group where V::kPanelColumns > 0.
#pragma once
#include "kernels/lanes_impl.hpp"

namespace starchat {
namespace {

// The offset at which weights of a kind are multiplied, so that they have no sign: value + offset.
// ActivationBlock::start corrects the dot product.
template <class V>
constexpr int weight_offset(WeightKind kind) {
  return kind.bits < 8 || V::kUnsignedBytes ? activation_format(kind).weight_offset : 0;
}

// Up to 24 interleaved columns of a batch.
struct Tile {
  const std::byte* columns;  // as in PanelProduct
  int width;                 // number of columns
  float* out;                // of its first column

  const ActivationBlock* blocks() const {
    return reinterpret_cast<const ActivationBlock*>(columns);
  }
  const float* scales(int n_blocks) const {
    return reinterpret_cast<const float*>(columns + scales_offset(n_blocks, width));
  }
};

template <WeightKind kKind>
Tile tile_at(const PanelProduct& p, int first) {
  return {p.columns + first * activation_bytes(!kKind.is_float(), p.n_blocks),
          smaller(p.n_columns - first, kTileColumns),
          p.out + static_cast<size_t>(first) * p.out_stride};
}

// sum[c] += (the V::kLanes rows from `row` on of one strip) · column c. The order of sums:
//   block:  dot = exact integer dot product of 32 weights
//           group_sum = fma(dot, d · 2^power, group_sum); *_1: then fma(m, scaled_sum, group_sum)
//   group:  sum = fma(group_sum, scale of the activations, sum)
template <class V, WeightKind kKind, int kColumns>
void quantized_columns(const std::byte* strip, int n_blocks, const Tile& tile, int row, int first,
                       typename V::F (&sum)[kColumns]) {
  using F = typename V::F;
  constexpr StripLayout layout{kKind};
  constexpr size_t kPrefetchBytes = 4 * layout.record_bytes();  // distance
  const ActivationBlock* x = tile.blocks() + first;
  const float* x_scales = tile.scales(n_blocks) + first;
  for (int group = 0; group < n_blocks; group += kGroupBlocks, x_scales += tile.width) {
    F group_sum[kColumns];
    for (auto& s : group_sum) s = V::set1(0.0f);
    const int end = smaller(group + kGroupBlocks, n_blocks);
    for (int b = group; b < end; ++b, x += tile.width) {
      const std::byte* record = strip + static_cast<size_t>(b / 2) * layout.record_bytes();
      const size_t half = b % 2;
      if (half == 0) {
        for (size_t i = 0; i < layout.record_bytes(); i += 64) {
          __builtin_prefetch(record + kPrefetchBytes + i, 0, 3);
        }
      }
      const auto quads = V::template unpack<layout.bits>(
          record + layout.qs_offset() + half * layout.qs_bytes() + 4 * row,
          record + layout.qh_offset() + half * 64 + 4 * row);
      const auto* scales = reinterpret_cast<const uint16_t*>(record + half * 32) + row;
      const F d = V::load_half(scales);
      F m{};
      if constexpr (layout.has_min()) m = V::load_half(scales + layout.m_offset() / 2);
      typename V::I dot[kColumns];
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) {
        dot[c] = V::set1_int(weight_offset<V>(kKind) != 0 ? x[c].start : 0);
      }
      V::template add_dots<layout.bits>(dot, quads, x);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) {
        F& s = group_sum[c];
        const F scale = times_power_of_two<V>(d, V::set1_int(x[c].power));
        s = V::fma(V::to_float(dot[c]), scale, s);
        if constexpr (layout.has_min()) s = V::fma(m, V::set1(x[c].scaled_sum), s);
      }
    }
    for (int c = 0; c < kColumns; ++c) sum[c] = V::fma(group_sum[c], V::set1(x_scales[c]), sum[c]);
  }
}

// The same for float weights: one fma for each k, in order.
template <class V, WeightKind kKind, int kColumns>
void float_columns(const std::byte* strip, int n_blocks, const Tile& tile, int row, int first,
                   typename V::F (&sum)[kColumns]) {
  constexpr size_t kElement = kKind.bits / 8;
  const float* x =
      reinterpret_cast<const float*>(tile.columns) + static_cast<size_t>(first) * kBlock;
  const std::byte* weights = strip + row * kElement;
  for (int b = 0; b < n_blocks; ++b, x += static_cast<size_t>(tile.width) * kBlock) {
    for (int k = 0; k < kBlock; ++k, weights += kLanes * kElement) {
      typename V::F w;
      if constexpr (kKind.bits == 16) {
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
    typename V::F sum[kColumns];
    for (auto& s : sum) s = V::set1(0.0f);
    if constexpr (!kKind.is_float()) {
      quantized_columns<V, kKind, kColumns>(weights, p.n_blocks, tile, row, first, sum);
    } else {
      float_columns<V, kKind, kColumns>(weights, p.n_blocks, tile, row, first, sum);
    }
    const int at = strip * kLanes + row;
    for (int c = 0; c < kColumns; ++c) {
      store_sum<V>(p, sum[c], at, tile.out + static_cast<size_t>(first + c) * p.out_stride + at);
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

// The loop for an instruction set that multiplies both strips of a panel together, so that each
// activation that is loaded serves both (V::kPanelColumns > 0). A sweep reads the panel once, group
// by group, for up to 72 columns: a group stays in the L1 cache while all of them are multiplied
// with it. The next group is prefetched meanwhile, a few cache lines for each block, so that memory
// is read at an even rate.
constexpr int kSweepColumns = 72;  // 3 tiles: their activations of a group take 46 KB of L2
constexpr int kCacheLine = 64;

// What to prefetch: n_lines cache lines of each strip for every block.
struct Prefetch {
  const std::byte *lines, *from_middle;  // for the first half of a group, for the second half
  int n_lines;
};

// sums (kColumns, kStrips, 16) += product of one group of blocks with kColumns columns, in the same
// order as quantized_columns; "=" instead of "+=" for the first group.
template <class V, WeightKind kKind, int kStrips, int kColumns>
void add_group(const std::byte* strips, size_t strip_bytes, int n_blocks, const ActivationBlock* x,
               const float* x_scales, int tile_width, bool is_first, float* sums,
               Prefetch prefetch) {
  using F = typename V::F;
  constexpr StripLayout layout{kKind};
  F sum[kColumns][kStrips];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) {
    for (int s = 0; s < kStrips; ++s) sum[c][s] = V::set1(0.0f);
  }
  for (int b = 0; b < n_blocks; ++b, x += tile_width) {
    if (b == kGroupBlocks / 2) prefetch.lines = prefetch.from_middle;
    for (int i = 0; i < prefetch.n_lines; ++i, prefetch.lines += kCacheLine) {
      for (int s = 0; s < kStrips; ++s) __builtin_prefetch(prefetch.lines + s * strip_bytes, 0, 3);
    }
    const size_t half = b % 2;
    const std::byte* record = strips + static_cast<size_t>(b / 2) * layout.record_bytes();
    typename V::I dot[kColumns][kStrips];
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const auto start = V::set1_int(weight_offset<V>(kKind) != 0 ? x[c].start : 0);
      for (int s = 0; s < kStrips; ++s) dot[c][s] = start;
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      typename V::Quad quad[kStrips][2];
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) {
        const std::byte* at = record + s * strip_bytes;
        V::template unpack<layout.bits>(at + layout.qs_offset() + half * layout.qs_bytes(),
                                        at + layout.qh_offset() + half * 64, j, quad[s]);
      }
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) {
          const auto four = V::four_bytes(x[c].q + 4 * j + 16 * h);
#pragma GCC unroll 2
          for (int s = 0; s < kStrips; ++s) dot[c][s] = V::add_dot(dot[c][s], quad[s][h], four);
        }
      }
    }
    F d[kStrips], m[kStrips]{};
#pragma GCC unroll 2
    for (int s = 0; s < kStrips; ++s) {
      const auto* scales = reinterpret_cast<const uint16_t*>(record + s * strip_bytes + half * 32);
      d[s] = V::load_half(scales);
      if constexpr (layout.has_min()) m[s] = V::load_half(scales + layout.m_offset() / 2);
    }
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const auto power = V::set1_int(x[c].power);
      F scaled_sum{};
      if constexpr (layout.has_min()) scaled_sum = V::set1(x[c].scaled_sum);
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) {
        F& total = sum[c][s];
        total = V::fma(V::to_float(dot[c][s]), times_power_of_two<V>(d[s], power), total);
        if constexpr (layout.has_min()) total = V::fma(m[s], scaled_sum, total);
      }
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) {
    const F scale = V::set1(x_scales[c]);
    for (int s = 0; s < kStrips; ++s, sums += kLanes) {
      V::store(sums, V::fma(sum[c][s], scale, is_first ? V::set1(0.0f) : V::load(sums)));
    }
  }
}

// add_group for a number of columns that is known at run time.
template <class V, WeightKind kKind, int kStrips, int kColumns = V::kPanelColumns, class... Rest>
void add_some_columns(int n_columns, Rest... rest) {
  if (n_columns == kColumns) return add_group<V, kKind, kStrips, kColumns>(rest...);
  if constexpr (kColumns > 1) {
    add_some_columns<V, kKind, kStrips, kColumns - 1>(n_columns, rest...);
  }
}

template <class V, WeightKind kKind, int kStrips>
void group_by_group(const PanelProduct& p) {
  constexpr auto passes = [](int width) {
    return (width + V::kPanelColumns - 1) / V::kPanelColumns;
  };
  constexpr int kGroupBytes =
      kGroupBlocks / 2 * static_cast<int>(StripLayout{kKind}.record_bytes());
  alignas(64) float sums[kSweepColumns * kStrips * kLanes];
  for (int begin = 0; begin < p.n_columns; begin += kSweepColumns) {  // a sweep
    const int end = smaller(begin + kSweepColumns, p.n_columns), n_sweep = end - begin;
    const int n_passes =
        n_sweep / kTileColumns * passes(kTileColumns) + passes(n_sweep % kTileColumns);
    const std::byte* strips = p.strips;
    for (int block = 0; block < p.n_blocks; block += kGroupBlocks, strips += kGroupBytes) {
      const int n = smaller(kGroupBlocks, p.n_blocks - block);
      const std::byte* next = block + n < p.n_blocks ? strips + kGroupBytes
                              : end < p.n_columns    ? p.strips
                                                     : p.strips + kStrips * p.strip_bytes;
      const std::byte* end_of_next = next + kGroupBytes;
      const int n_fetches = n_passes * n;
      const int n_lines = (kGroupBytes / kCacheLine + n_fetches - 1) / n_fetches;
      for (int first = begin; first < end; first += kTileColumns) {
        const Tile tile = tile_at<kKind>(p, first);
        const ActivationBlock* x = tile.blocks() + block * tile.width;
        const float* x_scales = tile.scales(p.n_blocks) + block / kGroupBlocks * tile.width;
        for (int c = 0; c < tile.width;) {
          const int left = tile.width - c, n_left = passes(left);
          const int n_columns = (left + n_left - 1) / n_left;  // passes of nearly equal width
          // A single pass is too short to fetch a whole group: prefetch half a group ahead.
          const std::byte* middle = next + n_lines * (kGroupBlocks / 2) * kCacheLine;
          const Prefetch prefetch = n_passes == 1
                                        ? Prefetch{strips + kGroupBytes / 2, next, n_lines}
                                        : Prefetch{next, middle, next < end_of_next ? n_lines : 0};
          add_some_columns<V, kKind, kStrips>(
              n_columns, strips, p.strip_bytes, n, x + c, x_scales + c, tile.width, block == 0,
              sums + (first - begin + c) * kStrips * kLanes, prefetch);
          next += n_lines * n * kCacheLine;
          c += n_columns;
        }
      }
    }
    for (int c = begin; c < end; ++c) {
      for (int row = 0; row < kStrips * kLanes; row += kLanes) {
        store_sum<V>(p, V::load(sums + (c - begin) * kStrips * kLanes + row), row,
                     p.out + static_cast<size_t>(c) * p.out_stride + row);
      }
    }
  }
}

template <class V, WeightKind kKind>
void panel_product(const PanelProduct& p) {
  if constexpr (kKind.is_float() || V::kPanelColumns == 0) {
    strip_by_strip<V, kKind>(p);
  } else if (p.n_strips == kPanelStrips) {
    group_by_group<V, kKind, kPanelStrips>(p);
  } else {
    group_by_group<V, kKind, 1>(p);
  }
}

}  // namespace
}  // namespace starchat
