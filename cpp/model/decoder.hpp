// The forward pass over one ragged batch: token and position embeddings, then runs of layers, each
// on its device. Memory is made at load; forward() allocates nothing.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/core_share.hpp"
#include "base/thread_pool.hpp"
#include "model/batch.hpp"
#include "model/layer_run.hpp"
#include "model/model_info.hpp"
#include "model/weights.hpp"

namespace starchat {

// The threads of one engine, which computes a model and perhaps a draft model, one at a time.
struct Cores {
  explicit Cores(int n_threads);  // as in load_model()
  ThreadPool threads;
  CoreShare share;
};

class Decoder : public ForwardPass {
 public:
  // n_threads and n_ctx as in load_model(). Throws InvalidRequestError, UnsupportedFeatureError,
  // OutOfMemoryError.
  Decoder(std::shared_ptr<const LoadedFile> file, int n_threads, int n_ctx,
          const Placement& placement = {});
  Decoder(std::shared_ptr<const LoadedFile> file, std::shared_ptr<Cores> cores, int n_ctx,
          const Placement& placement = {});
  Decoder(const Decoder&) = delete;  // the runs refer to its threads

  int n_vocab() const override { return config_.n_vocab; }
  int n_ctx() const override { return config_.n_ctx; }
  int n_embd() const override { return config_.n_embd; }
  int max_columns() const override { return max_columns_; }
  KvPool& kv_pool() override { return kv_pool_; }
  void copy_page(PageId from, PageId to) override;
  void read_page(PageId page, std::span<std::byte> out) override;
  void write_page(PageId page, std::span<const std::byte> bytes) override;
  void forward(const Batch& batch, std::span<float> logits, std::span<float> states) override;
  void pause() override { cores_->share.end(); }

  // Larger models get fewer columns, so that a step stays short: other sequences get their turn and
  // cancelling is prompt.
  static int columns_per_step(uint64_t weight_bytes);
  // Of activations and logits, the scheduler's included.
  static uint64_t work_bytes(const DecoderConfig& config, int n_threads, int max_columns);

  const std::shared_ptr<const LoadedFile>& file() const { return file_; }
  const std::shared_ptr<Cores>& cores() const { return cores_; }
  const ModelInfo& info() const { return info_; }

 private:
  void embed(const Batch& batch);
  std::vector<std::unique_ptr<LayerRun>> make_runs(const Placement& placement);

  const std::shared_ptr<const LoadedFile> file_;
  const Weights& weights_;
  const Kernels& kernels_;
  const std::shared_ptr<Cores> cores_;
  DecoderConfig config_;
  ModelInfo info_;
  int max_columns_;
  ActivationBuffer x_;  // (max_columns, n_embd): the residual stream
  std::vector<std::unique_ptr<LayerRun>> runs_;
  KvPool kv_pool_;
};

struct LoadedModel {
  std::unique_ptr<Decoder> model;
  Vocabulary vocabulary;
};

// n_threads 0: as many as the process may use. n_ctx 0: the file's own. share: load_weights().
// check: called before memory is taken for weights, unless those of another process are mapped; may
// throw.
// Throws FileAccessError, UnsupportedFormatError, CorruptFileError, InvalidRequestError,
// UnsupportedFeatureError, OutOfMemoryError.
using CheckFile = std::function<void(const ModelFile&)>;
LoadedModel load_model(const std::string& path, int n_threads, int n_ctx, bool share = false,
                       const Progress& progress = {}, const CheckFile& check = {},
                       const Placement& placement = {});
LoadedModel load_model(ModelFile file, int n_threads, int n_ctx, bool share = false,
                       const Progress& progress = {}, const CheckFile& check = {},
                       const Placement& placement = {});

}  // namespace starchat
