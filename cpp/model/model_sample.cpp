#include "model/model_sample.hpp"

#include <algorithm>
#include <span>

namespace starchat {
namespace {

constexpr size_t kPiece = 128;  // bytes: scales and codes of all 16 rows of a strip

class Sample {
 public:
  void add(std::span<const std::byte> bytes) {
    this->bytes.insert(this->bytes.end(), bytes.begin(), bytes.end());
  }
  template <class T>
  void add_all(const std::vector<T>& values) {
    add_number(values.size());
    add(std::as_bytes(std::span(values)));
  }
  void add_number(uint64_t number) { add(std::as_bytes(std::span(&number, 1))); }
  void add_matrix(const PackedMatrix& matrix) {
    add_number(static_cast<uint64_t>(traits(matrix.type).ggml_id));
    add_number(matrix.n_rows);
    add_number(matrix.n_cols);
    add_all(matrix.column_order);
    for (int i = 0; i < matrix.n_strips(); ++i)
      add({matrix.strip(i), std::min(kPiece, matrix.strip_bytes())});
  }
  void add_norm(const LayerNorm& norm) {
    add_all(norm.gain);
    add_all(norm.bias);
  }
  void add_linear(const Linear& linear) {
    add_matrix(linear.weight);
    add_all(linear.bias);
  }

  std::vector<std::byte> bytes;
};

}  // namespace

std::vector<std::byte> sample_of(const LoadedFile& file) {
  const DecoderConfig& config = file.config;
  const Weights& weights = file.weights;
  Sample sample;
  sample.add_number(StripLayout::kVersion);
  for (const int32_t number : {config.n_vocab, config.n_ctx, config.n_embd, config.n_layer,
                               config.n_head, config.n_kv_head, config.head_dim, config.n_inner})
    sample.add_number(number);
  sample.add_all(std::vector{config.norm_eps});
  sample.add_matrix(weights.token_embedding);
  sample.add_number(weights.positions.size_bytes());
  for (int i = 0; i < config.n_ctx; ++i) {
    const auto row = weights.positions.row(i);
    sample.add(row.first(std::min(kPiece, row.size())));
  }
  for (const Layer& layer : weights.layers) {
    for (const LayerNorm* norm : {&layer.attn_norm, &layer.ffn_norm}) sample.add_norm(*norm);
    for (const Linear* linear : {&layer.qkv, &layer.attn_out, &layer.ffn_up, &layer.ffn_down})
      sample.add_linear(*linear);
  }
  sample.add_norm(weights.final_norm);
  sample.add_matrix(weights.output);
  return std::move(sample.bytes);
}

}  // namespace starchat
