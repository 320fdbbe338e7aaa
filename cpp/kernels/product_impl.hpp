// Products of packed weights and tiles of activations, over a vocabulary V (kernels_impl.hpp).
#pragma once
#include "kernels/lanes_impl.hpp"

namespace starchat {
namespace {

// What is added to weights of a type, so that they are stored without a sign.
template <class V>
constexpr int weight_offset(TensorType type) {
  const StripLayout layout = strip_layout(type);
  if (layout.bits == 0 || layout.has_min) return 0;
  return layout.bits < 8 || V::kUnsignedBytes ? 1 << (layout.bits - 1) : 0;
}

// Sixteen columns or fewer of a batch, side by side, and where their sums go.
struct Tile {
  const std::byte* columns;  // (n_blocks, width) of ActivationBlock or float[32]
  int width;
  float* out;
};

template <TensorType kType>
Tile tile_of(const PanelProduct& p, int first) {
  constexpr size_t kRecord = is_quantized(kType) ? sizeof(ActivationBlock) : kBlock * sizeof(float);
  return {p.columns + static_cast<size_t>(first) * p.n_blocks * kRecord,
          smaller(p.n_columns - first, kTileColumns),
          p.out + static_cast<size_t>(first) * p.out_stride};
}

// sum[c] += rows from `row` on of one strip x column c, as many as V has lanes, blocks in order: an
// exact integer dot product, then one fma with d·scale (and for *_1 types one with m·scaled_sum).
template <class V, TensorType kType, int kColumns>
void quantized_columns(const std::byte* strip, int n_blocks, const Tile& tile, int row, int first,
                       typename V::F (&sum)[kColumns]) {
  using F = typename V::F;
  constexpr StripLayout layout = strip_layout(kType);
  constexpr size_t kAhead = 4 * layout.record_bytes();
  const auto* x = reinterpret_cast<const ActivationBlock*>(tile.columns) + first;
  for (int b = 0; b < n_blocks; ++b, x += tile.width) {
    const std::byte* record = strip + static_cast<size_t>(b / 2) * layout.record_bytes();
    const size_t half = b % 2;
    if (half == 0) {
      for (size_t i = 0; i < layout.record_bytes(); i += 64) {
        __builtin_prefetch(record + kAhead + i, 0, 3);
      }
    }
    const auto quads = V::template unpack<layout.bits>(
        record + layout.qs_offset() + half * layout.qs_bytes() + 4 * row,
        record + layout.qh_offset() + half * 64 + 4 * row);
    const auto* scales = reinterpret_cast<const uint16_t*>(record + half * 32) + row;
    const F d = V::load_half(scales);
    F m{};
    if constexpr (layout.has_min) m = V::load_half(scales + layout.m_offset() / 2);
    typename V::I dot[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      dot[c] = V::set1_int(weight_offset<V>(kType) != 0 ? x[c].start : 0);
    }
    V::template add_dots<layout.bits>(dot, quads, x);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      sum[c] = V::fma(V::to_float(dot[c]), V::mul(d, V::set1(x[c].scale)), sum[c]);
      if constexpr (layout.has_min) sum[c] = V::fma(m, V::set1(x[c].scaled_sum), sum[c]);
    }
  }
}

// The same for unquantized weights: one fma per k.
template <class V, TensorType kType, int kColumns>
void float_columns(const std::byte* strip, int n_blocks, const Tile& tile, int row, int first,
                   typename V::F (&sum)[kColumns]) {
  constexpr size_t kElement = kType == TensorType::F16 ? 2 : 4;
  const float* x =
      reinterpret_cast<const float*>(tile.columns) + static_cast<size_t>(first) * kBlock;
  const std::byte* weights = strip + row * kElement;
  for (int b = 0; b < n_blocks; ++b, x += static_cast<size_t>(tile.width) * kBlock) {
    for (int k = 0; k < kBlock; ++k, weights += kStripRows * kElement) {
      typename V::F w;
      if constexpr (kType == TensorType::F16) {
        w = V::load_half(reinterpret_cast<const uint16_t*>(weights));
      } else {
        w = V::load(reinterpret_cast<const float*>(weights));
      }
#pragma GCC unroll 16
      for (int c = 0; c < kColumns; ++c) sum[c] = V::fma(w, V::set1(x[c * kBlock + k]), sum[c]);
    }
  }
}

template <class V>
void put(const PanelProduct& p, typename V::F sum, int row, float* out) {
  if (p.bias != nullptr) sum = V::add(sum, V::load(p.bias + row));
  if (p.accumulate) sum = V::add(sum, V::load(out));
  V::store(out, sum);
}

template <class V, TensorType kType, int kColumns>
void strip_columns(const PanelProduct& p, int strip, const Tile& tile, int first) {
  const std::byte* weights = p.strips + strip * p.strip_bytes;
  for (int row = 0; row < kStripRows; row += V::kLanes) {
    typename V::F sum[kColumns];
    for (auto& s : sum) s = V::set1(0.0f);
    if constexpr (is_quantized(kType)) {
      quantized_columns<V, kType, kColumns>(weights, p.n_blocks, tile, row, first, sum);
    } else {
      float_columns<V, kType, kColumns>(weights, p.n_blocks, tile, row, first, sum);
    }
    const int at = strip * kStripRows + row;
    for (int c = 0; c < kColumns; ++c) {
      put<V>(p, sum[c], at, tile.out + static_cast<size_t>(first + c) * p.out_stride + at);
    }
  }
}

template <class V, TensorType kType>
void strip_by_strip(const PanelProduct& p) {
  for (int strip = 0; strip < p.n_strips; ++strip) {
    for (int first = 0; first < p.n_columns; first += kTileColumns) {
      const Tile tile = tile_of<kType>(p, first);
      int c = 0;
      if constexpr (V::kMaxColumns >= 16) {
        for (; c + 16 <= tile.width; c += 16) strip_columns<V, kType, 16>(p, strip, tile, c);
      }
      if constexpr (V::kMaxColumns >= 8) {
        for (; c + 8 <= tile.width; c += 8) strip_columns<V, kType, 8>(p, strip, tile, c);
      }
      for (; c + 4 <= tile.width; c += 4) {
        strip_columns<typename V::Rows, kType, 4>(p, strip, tile, c);
      }
      for (; c + 2 <= tile.width; c += 2) strip_columns<V, kType, 2>(p, strip, tile, c);
      for (; c < tile.width; ++c) strip_columns<V, kType, 1>(p, strip, tile, c);
    }
  }
}

// Products by an instruction set that takes both strips of a panel at once (V::kPanelColumns > 0):
// an activation that is loaded serves both. They go by chunks of blocks, which all columns of a
// group meet while they stay in the first cache; the weights that come next are fetched meanwhile,
// some lines at a time, which is what keeps the memory busy.
constexpr int kChunkBlocks = 16;  // half as many where few columns leave memory little time
constexpr int kGroupColumns = 64;
constexpr int kCacheLine = 64;

// Some lines that soon are needed, of each strip, for every block.
struct Ahead {
  const std::byte* lines;
  int n_lines;
};

// sums (kColumns, kStrips, 16) += some blocks of the strips x some columns; = for the first blocks.
template <class V, TensorType kType, int kStrips, int kColumns>
void add_blocks(const std::byte* strips, size_t strip_bytes, int n_blocks, const ActivationBlock* x,
                int tile_width, bool is_first, float* sums, Ahead ahead) {
  using F = typename V::F;
  constexpr StripLayout layout = strip_layout(kType);
  F sum[kColumns][kStrips];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) {
    for (int s = 0; s < kStrips; ++s) {
      sum[c][s] = is_first ? V::set1(0.0f) : V::load(sums + (c * kStrips + s) * kLanes);
    }
  }
  for (int b = 0; b < n_blocks; ++b, x += tile_width) {
    for (int i = 0; i < ahead.n_lines; ++i, ahead.lines += kCacheLine) {
      for (int s = 0; s < kStrips; ++s) __builtin_prefetch(ahead.lines + s * strip_bytes, 0, 3);
    }
    const size_t half = b % 2;
    const std::byte* record = strips + static_cast<size_t>(b / 2) * layout.record_bytes();
    typename V::I dot[kColumns][kStrips];
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const auto start = V::set1_int(weight_offset<V>(kType) != 0 ? x[c].start : 0);
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
      if constexpr (layout.has_min) m[s] = V::load_half(scales + layout.m_offset() / 2);
    }
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const F scale = V::set1(x[c].scale), scaled_sum = V::set1(x[c].scaled_sum);
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) {
        sum[c][s] = V::fma(V::to_float(dot[c][s]), V::mul(d[s], scale), sum[c][s]);
        if constexpr (layout.has_min) sum[c][s] = V::fma(m[s], scaled_sum, sum[c][s]);
      }
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) {
    for (int s = 0; s < kStrips; ++s) V::store(sums + (c * kStrips + s) * kLanes, sum[c][s]);
  }
}

template <class V, TensorType kType, int kStrips, int kColumns = V::kPanelColumns, class... Rest>
void add_some_columns(int n_columns, Rest... rest) {
  if (n_columns == kColumns) return add_blocks<V, kType, kStrips, kColumns>(rest...);
  if constexpr (kColumns > 1) {
    add_some_columns<V, kType, kStrips, kColumns - 1>(n_columns, rest...);
  }
}

template <class V, TensorType kType, int kStrips>
void chunk_by_chunk(const PanelProduct& p) {
  constexpr auto passes = [](int width) {
    return (width + V::kPanelColumns - 1) / V::kPanelColumns;
  };
  const int chunk_blocks = p.n_columns > V::kPanelColumns ? kChunkBlocks : kChunkBlocks / 2;
  const int chunk_bytes = chunk_blocks / 2 * static_cast<int>(strip_layout(kType).record_bytes());
  alignas(64) float sums[kGroupColumns * kStrips * kLanes];
  for (int group = 0; group < p.n_columns; group += kGroupColumns) {
    const int end = smaller(group + kGroupColumns, p.n_columns), n_group = end - group;
    const int n_passes =
        n_group / kTileColumns * passes(kTileColumns) + passes(n_group % kTileColumns);
    const std::byte* strips = p.strips;
    for (int b = 0; b < p.n_blocks; b += chunk_blocks, strips += chunk_bytes) {
      const int n = smaller(chunk_blocks, p.n_blocks - b);
      const std::byte* next = b + n < p.n_blocks  ? strips + chunk_bytes
                              : end < p.n_columns ? p.strips
                                                  : p.strips + kStrips * p.strip_bytes;
      const std::byte* end_of_next = next + chunk_bytes;
      const int n_fetches = n_passes * n;
      const int n_lines = (chunk_bytes / kCacheLine + n_fetches - 1) / n_fetches;
      for (int first = group; first < end; first += kTileColumns) {
        const Tile tile = tile_of<kType>(p, first);
        const auto* x = reinterpret_cast<const ActivationBlock*>(tile.columns) + b * tile.width;
        for (int c = 0; c < tile.width;) {
          const int left = tile.width - c, n_left = passes(left);
          const int n_columns = (left + n_left - 1) / n_left;  // as evenly as can be
          add_some_columns<V, kType, kStrips>(n_columns, strips, p.strip_bytes, n, x + c,
                                              tile.width, b == 0,
                                              sums + (first - group + c) * kStrips * kLanes,
                                              Ahead{next, next < end_of_next ? n_lines : 0});
          next += n_lines * n * kCacheLine;
          c += n_columns;
        }
      }
    }
    for (int c = group; c < end; ++c) {
      for (int row = 0; row < kStrips * kLanes; row += kLanes) {
        put<V>(p, V::load(sums + (c - group) * kStrips * kLanes + row), row,
               p.out + static_cast<size_t>(c) * p.out_stride + row);
      }
    }
  }
}

template <class V, TensorType kType>
void panel_product(const PanelProduct& p) {
  if constexpr (!is_quantized(kType) || V::kPanelColumns == 0) {
    strip_by_strip<V, kType>(p);
  } else if (p.n_strips == kPanelStrips) {
    chunk_by_chunk<V, kType, kPanelStrips>(p);
  } else {
    chunk_by_chunk<V, kType, 1>(p);
  }
}

}  // namespace
}  // namespace starchat
