#include "model/decoder.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/errors.hpp"
#include "format/open_model.hpp"

namespace starchat {

namespace {

constexpr int kMaxThreads = 256;
constexpr int64_t kTeamWork = 1 << 19;  // multiply-adds of one column that are worth three loops

// A step should stay short, so that others get their turn and cancelling is prompt: fewer
// columns for larger models.
int columns_per_step(uint64_t weight_bytes) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  if (weight_bytes < kGiB) return 256;
  return weight_bytes < 4 * kGiB ? 128 : 64;
}

int checked_threads(int n_threads) {
  if (n_threads == 0) return available_cores();
  if (n_threads < 0 || n_threads > kMaxThreads) {
    throw InvalidRequestError(
        "n_threads: expected 1 to " + std::to_string(kMaxThreads) +
            ", or 0 for one for each core; got " + std::to_string(n_threads),
        {.param = "n_threads", .limit = n_threads < 0 ? 1 : kMaxThreads, .got = n_threads});
  }
  return n_threads;
}

// n_ctx 0: as many positions as the file has.
DecoderConfig with_n_ctx(DecoderConfig config, int n_ctx) {
  if (n_ctx == 0) return config;
  if (n_ctx < 2 || n_ctx > config.n_ctx) {
    throw InvalidRequestError(
        "n_ctx: expected 2 to " + std::to_string(config.n_ctx) +
            " (positions are learned, the file has no more); got " + std::to_string(n_ctx),
        {.param = "n_ctx", .limit = n_ctx < 2 ? 2 : config.n_ctx, .got = n_ctx});
  }
  config.n_ctx = n_ctx;
  return config;
}

// Of one thread: a normalised column, or what attention needs.
size_t scratch_elements(const DecoderConfig& config, const KvStore& kv_store) {
  Attention largest{};
  largest.n_heads = config.n_head / config.n_kv_head;
  largest.v_row_elements = kv_store.v_row_elements();
  largest.n_positions = config.n_ctx;
  return std::max<size_t>(config.n_embd, largest.scratch_elements());
}

}  // namespace

Decoder::Decoder(const ModelFile& file, int n_threads, int n_ctx, const Progress& progress)
    : kernels_(select_kernels()),
      threads_(checked_threads(n_threads)),
      config_(with_n_ctx(file.config, n_ctx)),
      weights_(load_weights(file, config_.n_ctx, threads_, progress)),
      n_params_(file.n_params()),
      path_(file.path()),
      quantization_(file.quantization),
      max_columns_(columns_per_step(weights_.size_bytes)),
      kv_store_({config_.n_layer, config_.n_kv_head, config_.head_dim}),
      kv_pool_(config_.n_ctx, kv_store_.page_bytes(), [this](int n) { kv_store_.reserve(n); }),
      all_columns_(max_columns_),
      tiles_(max_columns_, std::max({config_.n_inner, config_.n_embd, config_.q_width()})),
      x_(max_columns_, config_.n_embd),
      qkv_(max_columns_, weights_.layers[0].qkv.weight.n_padded_rows()),
      mixed_(max_columns_, config_.q_width()),
      inner_(max_columns_, weights_.layers[0].ffn_up.weight.n_padded_rows()),
      logits_(kTileColumns, weights_.output.n_padded_rows()),
      half_(2 * static_cast<size_t>(config_.kv_width())),
      scratch_(threads_.n_threads(), scratch_elements(config_, kv_store_)) {
  std::iota(all_columns_.begin(), all_columns_.end(), 0);
}

ModelInfo Decoder::info() const {
  return {.file = path_,
          .quantization = quantization_,
          .isa = kernels_.name,
          .n_layer = config_.n_layer,
          .n_embd = config_.n_embd,
          .n_head = config_.n_head,
          .n_kv_head = config_.n_kv_head,
          .n_ctx = config_.n_ctx,
          .n_vocab = config_.n_vocab,
          .n_threads = threads_.n_threads(),
          .n_params = n_params_,
          .weight_bytes = weights_.size_bytes};
}

void Decoder::forward(const Batch& batch, std::span<float> logits, std::span<float> states) {
  const Compute compute{kernels_, threads_};
  const int n = batch.n_columns(), n_embd = config_.n_embd;
  const std::span<const int32_t> columns(all_columns_.data(), n);

  embed(batch);
  for (int i = 0; i < config_.n_layer; ++i) {
    const Layer& layer = weights_.layers[i];

    tiles_.shape(layer.qkv.weight, n);
    layer_norm(compute, layer.attn_norm, x_, n_embd, columns, scratch_, tiles_);
    matmul(compute, layer.qkv.weight, tiles_, layer.qkv.bias, false, qkv_);
    store_keys_and_values(batch, i);
    attention(batch, i);
    tiles_.shape(layer.attn_out.weight, n);
    to_tiles(compute, mixed_, config_.q_width(), false, tiles_);
    matmul(compute, layer.attn_out.weight, tiles_, layer.attn_out.bias, true, x_);

    tiles_.shape(layer.ffn_up.weight, n);
    layer_norm(compute, layer.ffn_norm, x_, n_embd, columns, scratch_, tiles_);
    matmul(compute, layer.ffn_up.weight, tiles_, layer.ffn_up.bias, false, inner_);
    tiles_.shape(layer.ffn_down.weight, n);
    to_tiles(compute, inner_, config_.n_inner, true, tiles_);
    matmul(compute, layer.ffn_down.weight, tiles_, layer.ffn_down.bias, true, x_);
  }
  output(batch, logits);
  hidden_states(batch, states);
}

void Decoder::embed(const Batch& batch) {
  for (int c = 0; c < batch.n_columns(); ++c) {
    unpack_row(weights_.token_embedding, batch.token_ids[c], x_[c]);
    weights_.positions.add_row(batch.positions[c], x_[c]);
  }
}

// The caches of every column are written before any of them is read: columns of one sequence
// attend to those before them in the same batch.
void Decoder::store_keys_and_values(const Batch& batch, int layer) {
  const int n_kv = config_.kv_width();
  for (int c = 0; c < batch.n_columns(); ++c) {
    const float* keys = qkv_[c] + config_.q_width();
    kernels_.to_half(keys, 2 * n_kv, half_.data());
    const int position = batch.positions[c], in_page = position % kPagePositions;
    uint16_t* page = kv_store_.page(batch.caches[c]->pages()[position / kPagePositions]);
    for (int head = 0; head < config_.n_kv_head; ++head) {
      const uint16_t* key = half_.data() + head * config_.head_dim;
      uint16_t* tile = page + kv_store_.k_offset(layer, head) +
                       static_cast<size_t>(in_page / kLanes) * config_.head_dim * kLanes +
                       in_page % kLanes;
      for (int d = 0; d < config_.head_dim; ++d) tile[d * kLanes] = key[d];
      std::copy_n(key + n_kv, config_.head_dim,
                  page + kv_store_.v_offset(layer, head) +
                      static_cast<size_t>(in_page) * kv_store_.v_row_elements());
    }
  }
}

void Decoder::attention(const Batch& batch, int layer) {
  const int heads_per_kv = config_.n_head / config_.n_kv_head, n = heads_per_kv * config_.head_dim;
  const auto prepare = [&](int64_t task, int thread) {
    const int kv_head = static_cast<int>(task % config_.n_kv_head);
    const int column = static_cast<int>(task / config_.n_kv_head);
    return Attention{.q = qkv_[column] + kv_head * n,
                     .n_heads = heads_per_kv,
                     .head_dim = config_.head_dim,
                     .pages = batch.caches[column]->pages().data(),
                     .page_table = kv_store_.page_table(),
                     .k_offset = kv_store_.k_offset(layer, kv_head),
                     .v_offset = kv_store_.v_offset(layer, kv_head),
                     .v_row_elements = kv_store_.v_row_elements(),
                     .n_positions = batch.positions[column] + 1,
                     .scratch = scratch_[thread],
                     .out = mixed_[column] + kv_head * n};
  };
  const int64_t n_tasks = static_cast<int64_t>(batch.n_columns()) * config_.n_kv_head;
  const int n_threads = threads_.n_threads();
  if (n_tasks >= n_threads) {
    threads_.parallel_for(n_tasks, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t task = begin; task < end; ++task) attend(kernels_, prepare(task, thread));
    });
    return;
  }
  for (int64_t task = 0; task < n_tasks; ++task) {  // few columns: the team shares each
    const Attention a = prepare(task, 0);
    if (int64_t{1} * n * a.n_positions < kTeamWork) {
      attend(kernels_, a);
      continue;
    }
    const auto share = [&](int n_items, int unit, const auto& part) {
      const int n_units = (n_items + unit - 1) / unit;
      const int64_t grain = std::max(1, n_units / (4 * n_threads));
      threads_.parallel_for(n_units, grain, [&](int64_t begin, int64_t end, int) {
        part(a, static_cast<int>(begin) * unit, std::min(static_cast<int>(end) * unit, n_items));
      });
    };
    share(a.n_pages(), 1, kernels_.attention_scores);
    share(a.n_heads, 1, kernels_.attention_weights);
    share(a.v_row_elements, 32, kernels_.attention_means);
  }
}

void Decoder::output(const Batch& batch, std::span<float> logits) {
  const Compute compute{kernels_, threads_};
  for (int first = 0; first < batch.n_logits(); first += kTileColumns) {
    const int n = std::min(kTileColumns, batch.n_logits() - first);
    tiles_.shape(weights_.output, n);
    layer_norm(compute, weights_.final_norm, x_, config_.n_embd,
               std::span(batch.logit_columns).subspan(first, n), scratch_, tiles_);
    matmul(compute, weights_.output, tiles_, {}, false, logits_);
    for (int c = 0; c < n; ++c) {
      std::copy_n(logits_[c], config_.n_vocab,
                  logits.data() + static_cast<size_t>(first + c) * config_.n_vocab);
    }
  }
}

void Decoder::hidden_states(const Batch& batch, std::span<float> states) const {
  const LayerNorm& norm = weights_.final_norm;
  for (int row = 0; row < batch.n_states(); ++row) {
    kernels_.layer_norm(x_[batch.state_columns[row]], norm.gain.data(), norm.bias.data(),
                        config_.n_embd, norm.eps,
                        states.data() + static_cast<size_t>(row) * config_.n_embd);
  }
}

LoadedModel load_model(const std::string& path, int n_threads, int n_ctx,
                       const Progress& progress) {
  ModelFile file = open_model(path);
  auto model = std::make_unique<Decoder>(file, n_threads, n_ctx, progress);
  return {std::move(model), std::move(file.vocabulary)};
}

}  // namespace starchat
