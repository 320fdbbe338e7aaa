// The forward pass of a decoder (GPTBigCode) over one ragged batch. Scratch memory is made at load;
// forward() allocates nothing.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/batch.hpp"
#include "model/kv_store.hpp"
#include "model/model_info.hpp"
#include "model/weights.hpp"

namespace starchat {

class Decoder : public ForwardPass {
 public:
  Decoder(const ModelFile& file, int n_threads, int n_ctx, const Progress& progress);

  int n_vocab() const override { return config_.n_vocab; }
  int n_ctx() const override { return config_.n_ctx; }
  int n_embd() const override { return config_.n_embd; }
  int max_columns() const override { return max_columns_; }
  KvPool& kv_pool() override { return kv_pool_; }
  void forward(const Batch& batch, std::span<float> logits, std::span<float> states) override;

  ModelInfo info() const;

 private:
  void embed(const Batch& batch);
  void store_keys_and_values(const Batch& batch, int layer);
  void attention(const Batch& batch, int layer);
  void output(const Batch& batch, std::span<float> logits);
  void hidden_states(const Batch& batch, std::span<float> states) const;

  const Kernels& kernels_;
  ThreadPool threads_;
  DecoderConfig config_;
  Weights weights_;
  uint64_t n_params_;
  std::string path_, quantization_;
  int max_columns_;
  KvStore kv_store_;
  KvPool kv_pool_;

  std::vector<int32_t> all_columns_;  // 0, 1, 2 …
  ActivationTiles tiles_;             // of the next matmul
  ActivationBuffer x_;                // (max_columns, n_embd): the residual stream
  ActivationBuffer qkv_;              // (max_columns, rows of c_attn, padded)
  ActivationBuffer mixed_;            // (max_columns, q_width): what attention gives
  ActivationBuffer inner_;            // (max_columns, n_inner)
  ActivationBuffer logits_;           // (kTileColumns, n_vocab, padded)
  std::vector<uint16_t> half_;        // (2 * kv_width)
  ActivationBuffer scratch_;          // (n_threads, scratch_elements)
};

// n_threads 0: as many as the process may use. n_ctx 0: the file's own. Throws FileAccessError,
// UnsupportedFormatError, CorruptFileError, InvalidRequestError, UnsupportedFeatureError,
// OutOfMemoryError.
struct LoadedModel {
  std::unique_ptr<Decoder> model;
  std::vector<std::string> vocabulary;
};
LoadedModel load_model(const std::string& path, int n_threads, int n_ctx,
                       const Progress& progress = {});

}  // namespace starchat
