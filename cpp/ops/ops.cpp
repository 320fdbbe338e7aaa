#include "ops/ops.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace starchat {

namespace {
// A loop with less work than this runs faster on the calling thread alone.
constexpr int64_t kSmallElements = 1 << 15;
constexpr int64_t kSmallWeightBytes = 1 << 20;

int64_t grain_for(int64_t n_items, int64_t total, int64_t small, int n_threads) {
  if (total <= small) return n_items;
  return std::max<int64_t>(1, n_items / (8 * n_threads));
}
}  // namespace

ActivationTiles::ActivationTiles(int max_columns, int max_cols, bool reorders)
    : storage_(size_bytes(max_columns, max_cols)) {
  if (reorders) ordered_.emplace(max_columns, max_cols);
}

size_t ActivationTiles::size_bytes(int max_columns, int max_cols) {
  return max_columns * ActivationFormat{}.column_bytes(max_cols / kBlock);
}

void ActivationTiles::prepare_for(const PackedMatrix& weights, int n_columns) {
  weights_ = weights.kind();
  order_ = weights.column_order;
  n_columns_ = n_columns;
  n_blocks_ = weights.n_blocks();
  column_bytes_ = activation_format(weights_).column_bytes(n_blocks_);
}

int ActivationTiles::tile_width(int tile) const {
  return std::min(kTileColumns, n_columns_ - tile * kTileColumns);
}

const std::byte* ActivationTiles::tile(int tile) const {
  return storage_.data() + tile * kTileColumns * column_bytes_;
}

void ActivationTiles::set_column(const Kernels& kernels, int column, const float* x) {
  const int in_tile = column % kTileColumns, width = tile_width(column / kTileColumns);
  auto* first = const_cast<std::byte*>(tile(column / kTileColumns));
  if (!order_.empty()) {
    float* ordered = (*ordered_)[column];
    std::ranges::transform(order_, ordered, [x](int32_t i) { return x[i]; });
    x = ordered;
  }
  if (!weights_.is_float()) {
    kernels.quantize(x, n_blocks_, weights_, first, in_tile, width);
    return;
  }
  float* blocks = reinterpret_cast<float*>(first) + in_tile * kBlock;
  for (int b = 0; b < n_blocks_; ++b)
    std::copy_n(x + b * kBlock, kBlock, blocks + b * width * kBlock);
}

void layer_norm(const Compute& compute, const LayerNorm& norm, const ActivationBuffer& x, int n,
                std::span<const int32_t> columns, ActivationBuffer& scratch, ActivationTiles& out) {
  const int64_t count = static_cast<int64_t>(columns.size());
  const int64_t grain = grain_for(count, count * n, kSmallElements, compute.threads.n_threads());
  compute.threads.parallel_for(count, grain, [&](int64_t begin, int64_t end, int thread) {
    float* normal = scratch[thread];
    for (int64_t c = begin; c < end; ++c) {
      compute.kernels.layer_norm(x[columns[c]], norm.gain.data(), norm.bias.data(), n, norm.eps,
                                 normal);
      out.set_column(compute.kernels, static_cast<int>(c), normal);
    }
  });
}

void to_tiles(const Compute& compute, ActivationBuffer& x, int n, bool gelu, ActivationTiles& out) {
  const int64_t count = out.n_columns();
  const int64_t grain = grain_for(count, count * n, kSmallElements, compute.threads.n_threads());
  compute.threads.parallel_for(count, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t c = begin; c < end; ++c) {
      float* column = x[static_cast<int>(c)];
      if (gelu) compute.kernels.gelu(column, n);
      out.set_column(compute.kernels, static_cast<int>(c), column);
    }
  });
}

void matmul(const Compute& compute, const PackedMatrix& weights, const ActivationTiles& x,
            std::span<const float> bias, bool accumulate, ActivationBuffer& out) {
  if (!x.fits(weights)) {  // the kernel would read them as something else
    throw std::logic_error("matmul: the activations were prepared for other weights than " +
                           std::string(traits(weights.type).name) + " (" +
                           std::to_string(weights.n_rows) + ", " + std::to_string(weights.n_cols) +
                           ")");
  }
  const auto kernel = compute.kernels.panel_product[static_cast<int>(weights.type)];
  const int64_t work = static_cast<int64_t>(weights.size_bytes()) * x.n_columns();
  const int n_panels = (weights.n_strips() + kPanelStrips - 1) / kPanelStrips;
  const int64_t grain = grain_for(n_panels, work, kSmallWeightBytes, compute.threads.n_threads());
  compute.threads.parallel_for(n_panels, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const int strip = static_cast<int>(panel) * kPanelStrips, row = strip * kLanes;
      kernel({.strips = weights.strip(strip),
              .strip_bytes = weights.strip_bytes(),
              .n_strips = std::min(kPanelStrips, weights.n_strips() - strip),
              .columns = x.tile(0),
              .n_blocks = weights.n_blocks(),
              .n_columns = x.n_columns(),
              .bias = bias.empty() ? nullptr : bias.data() + row,
              .accumulate = accumulate,
              .out = out[0] + row,
              .out_stride = out.stride()});
    }
  });
}

}  // namespace starchat
