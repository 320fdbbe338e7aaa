// The weights of a GPTBigCode model, read once, packed for the kernels, nothing stored twice: the
// tiled key and value heads and a repeated output matrix are folded when they are byte-identical.
#pragma once
#include <vector>

#include "base/arena.hpp"
#include "base/thread_pool.hpp"
#include "format/model_file.hpp"
#include "ops/ops.hpp"
#include "ops/packed_matrix.hpp"

namespace starchat {

struct Linear {
  PackedMatrix weight;
  std::vector<float> bias;  // (n_padded_rows), or empty
};

struct Layer {
  LayerNorm ln_1, ln_2;
  Linear c_attn;  // rows: queries (n_embd), keys and values (n_kv_head * head_dim each)
  Linear attn_proj, c_fc, mlp_proj;
};

// Learned positions (n_ctx, n_embd), as f16 where that loses nothing.
class PositionTable {
 public:
  PositionTable() = default;
  PositionTable(const ModelFile& file, int n_ctx);
  void add_row(int position, float* x) const;  // x += row
  size_t size_bytes() const { return rows_.size_bytes(); }

 private:
  bool fill(const ModelFile& file, int n_ctx, bool half);

  Arena rows_;
  int n_embd_ = 0;
  bool half_ = true;
};

struct Weights {
  int n_kv_head = 0;
  PackedMatrix wte;      // (n_vocab, n_embd)
  PackedMatrix lm_head;  // the same memory as wte where tied
  PositionTable wpe;
  std::vector<Layer> layers;
  LayerNorm ln_f;
  Arena arena;  // every packed matrix

  uint64_t n_params = 0, size_bytes = 0;
};

// Peak memory is the result plus a strip per thread. Errors: those of ModelFile::read, and
// OutOfMemoryError. `progress` runs on the calling thread and may throw to abort.
Weights load_weights(const ModelFile& file, int n_ctx, ThreadPool& threads,
                     const Progress& progress);

}  // namespace starchat
