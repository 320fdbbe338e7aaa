#include "model/cpu_layers.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace starchat {

namespace {

constexpr int64_t kTeamWork =
    1 << 19;  // multiply-adds of a column that pay for three parallel loops

size_t padded(int n_rows) { return (n_rows + kLanes - 1) / kLanes * kLanes; }

// Rows of each buffer.
struct BufferRows {
  size_t tiles, qkv, mixed, inner, logits;
  size_t scratch;  // of a thread: a normalised column, or what attention needs

  explicit BufferRows(const DecoderConfig& config)
      : tiles(std::max({config.n_embd, config.q_width(), config.n_inner})),
        qkv(padded(config.q_width() + 2 * config.kv_width())),
        mixed(config.q_width()),
        inner(padded(config.n_inner)),
        logits(padded(config.n_vocab)) {
    Attention largest{};
    largest.n_heads = config.n_head / config.n_kv_head;
    largest.v_row_elements = KvStore({1, 1, config.head_dim}).v_row_elements();
    largest.n_positions = config.n_ctx;
    scratch = std::max<size_t>(config.n_embd, largest.scratch_elements());
  }
};

bool has_column_order(std::span<const Layer> layers) {
  return std::ranges::any_of(layers, [](const Layer& layer) {
    return std::ranges::any_of(
        std::array{&layer.qkv, &layer.attn_out, &layer.ffn_up, &layer.ffn_down},
        [](const Linear* linear) { return !linear->weight.column_order.empty(); });
  });
}

}  // namespace

CpuLayers::CpuLayers(const Compute& compute, const DecoderConfig& config, const Weights& weights,
                     int first, int end, int max_columns)
    : compute_(compute),
      config_(config),
      layers_(std::span(weights.layers).subspan(first, end - first)),
      final_norm_(weights.final_norm),
      output_(weights.output),
      kv_({end - first, config.n_kv_head, config.head_dim}),
      all_columns_(max_columns),
      tiles_(max_columns, static_cast<int>(BufferRows(config).tiles), has_column_order(layers_)),
      qkv_(max_columns, BufferRows(config).qkv),
      mixed_(max_columns, BufferRows(config).mixed),
      inner_(max_columns, BufferRows(config).inner),
      logits_(kTileColumns, BufferRows(config).logits),
      half_(2 * static_cast<size_t>(config.kv_width())),
      scratch_(compute.threads.n_threads(), BufferRows(config).scratch) {
  std::iota(all_columns_.begin(), all_columns_.end(), 0);
}

uint64_t CpuLayers::work_bytes(const DecoderConfig& config, int n_threads, int max_columns) {
  const BufferRows rows(config);
  uint64_t size_bytes = ActivationTiles::size_bytes(max_columns, static_cast<int>(rows.tiles)) +
                        ActivationBuffer::size_bytes(kTileColumns, rows.logits) +
                        ActivationBuffer::size_bytes(n_threads, rows.scratch);
  for (const size_t n_rows : {rows.qkv, rows.mixed, rows.inner})
    size_bytes += ActivationBuffer::size_bytes(max_columns, n_rows);
  return size_bytes;
}

void CpuLayers::forward(const Batch& batch, ActivationBuffer& x) {
  const int n = batch.n_columns(), n_embd = config_.n_embd;
  const std::span<const int32_t> columns(all_columns_.data(), n);
  for (int i = 0; i < static_cast<int>(layers_.size()); ++i) {
    const Layer& layer = layers_[i];
    tiles_.prepare_for(layer.qkv.weight, n);
    layer_norm(compute_, layer.attn_norm, x, n_embd, columns, scratch_, tiles_);
    matmul(compute_, layer.qkv.weight, tiles_, layer.qkv.bias, false, qkv_);
    store_keys_and_values(batch, i);
    attention(batch, i);
    tiles_.prepare_for(layer.attn_out.weight, n);
    to_tiles(compute_, mixed_, config_.q_width(), false, tiles_);
    matmul(compute_, layer.attn_out.weight, tiles_, layer.attn_out.bias, true, x);

    tiles_.prepare_for(layer.ffn_up.weight, n);
    layer_norm(compute_, layer.ffn_norm, x, n_embd, columns, scratch_, tiles_);
    matmul(compute_, layer.ffn_up.weight, tiles_, layer.ffn_up.bias, false, inner_);
    tiles_.prepare_for(layer.ffn_down.weight, n);
    to_tiles(compute_, inner_, config_.n_inner, true, tiles_);
    matmul(compute_, layer.ffn_down.weight, tiles_, layer.ffn_down.bias, true, x);
  }
}

// The pages of every column are written before any of them is read: columns of one sequence
// attend to those before them in the same batch.
void CpuLayers::store_keys_and_values(const Batch& batch, int layer) {
  const int n_kv = config_.kv_width();
  for (int c = 0; c < batch.n_columns(); ++c) {
    const float* keys = qkv_[c] + config_.q_width();
    compute_.kernels.to_half(keys, 2 * n_kv, half_.data());
    const int position = batch.positions[c], in_page = position % kPagePositions;
    uint16_t* page = kv_.page(batch.caches[c]->pages()[position / kPagePositions]);
    for (int head = 0; head < config_.n_kv_head; ++head) {
      const uint16_t* key = half_.data() + head * config_.head_dim;
      uint16_t* strip = page + kv_.k_offset(layer, head) +
                        static_cast<size_t>(in_page / kLanes) * config_.head_dim * kLanes +
                        in_page % kLanes;
      for (int d = 0; d < config_.head_dim; ++d) strip[d * kLanes] = key[d];
      std::copy_n(
          key + n_kv, config_.head_dim,
          page + kv_.v_offset(layer, head) + static_cast<size_t>(in_page) * kv_.v_row_elements());
    }
  }
}

void CpuLayers::attention(const Batch& batch, int layer) {
  const int heads_per_kv = config_.n_head / config_.n_kv_head, n = heads_per_kv * config_.head_dim;
  const auto prepare = [&](int64_t task, int thread) {
    const int kv_head = static_cast<int>(task % config_.n_kv_head);
    const int column = static_cast<int>(task / config_.n_kv_head);
    return Attention{.q = qkv_[column] + kv_head * n,
                     .n_heads = heads_per_kv,
                     .head_dim = config_.head_dim,
                     .pages = batch.caches[column]->pages().data(),
                     .page_table = kv_.page_table(),
                     .k_offset = kv_.k_offset(layer, kv_head),
                     .v_offset = kv_.v_offset(layer, kv_head),
                     .v_row_elements = kv_.v_row_elements(),
                     .n_positions = batch.positions[column] + 1,
                     .scratch = scratch_[thread],
                     .out = mixed_[column] + kv_head * n};
  };
  const int64_t n_tasks = static_cast<int64_t>(batch.n_columns()) * config_.n_kv_head;
  const int n_threads = compute_.threads.n_threads();
  if (n_tasks >= n_threads) {
    compute_.threads.parallel_for(n_tasks, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t task = begin; task < end; ++task)
        attend(compute_.kernels, prepare(task, thread));
    });
    return;
  }
  for (int64_t task = 0; task < n_tasks; ++task) {  // few columns: all threads share each
    const Attention a = prepare(task, 0);
    if (int64_t{1} * n * a.n_positions < kTeamWork) {
      attend(compute_.kernels, a);
      continue;
    }
    const auto share = [&](int n_items, int unit, const auto& part) {
      const int n_units = (n_items + unit - 1) / unit;
      const int64_t grain = std::max(1, n_units / (4 * n_threads));
      compute_.threads.parallel_for(n_units, grain, [&](int64_t begin, int64_t end, int) {
        part(a, static_cast<int>(begin) * unit, std::min(static_cast<int>(end) * unit, n_items));
      });
    };
    share(a.n_pages(), 1, compute_.kernels.attention_scores);
    share(a.n_heads, 1, compute_.kernels.attention_weights);
    share(a.v_row_elements, 32, compute_.kernels.attention_means);
  }
}

void CpuLayers::output(const Batch& batch, const ActivationBuffer& x, std::span<float> logits,
                       std::span<float> states) {
  const size_t n_embd = config_.n_embd, n_vocab = config_.n_vocab;
  for (int first = 0; first < batch.n_logits(); first += kTileColumns) {
    const int n = std::min(kTileColumns, batch.n_logits() - first);
    tiles_.prepare_for(output_, n);
    layer_norm(compute_, final_norm_, x, config_.n_embd,
               std::span(batch.logit_columns).subspan(first, n), scratch_, tiles_);
    matmul(compute_, output_, tiles_, {}, false, logits_);
    for (int c = 0; c < n; ++c) {
      std::copy_n(logits_[c], n_vocab, logits.data() + (first + c) * n_vocab);
    }
  }
  for (int row = 0; row < batch.n_states(); ++row) {
    compute_.kernels.layer_norm(x[batch.state_columns[row]], final_norm_.gain.data(),
                                final_norm_.bias.data(), config_.n_embd, final_norm_.eps,
                                states.data() + row * n_embd);
  }
}

}  // namespace starchat
