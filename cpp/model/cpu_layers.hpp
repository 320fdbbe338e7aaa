// The LayerRun of the CPU: kernels, divided among threads, with weights in memory.
// Scratch memory is made at load; forward() and output() allocate nothing.
#pragma once
#include <cstdint>
#include <vector>

#include "model/kv_store.hpp"
#include "model/layer_run.hpp"
#include "model/weights.hpp"

namespace starchat {

class CpuLayers : public LayerRun {
 public:
  // Layers first .. end-1. The run refers to compute and weights, which must outlive it.
  CpuLayers(const Compute& compute, const DecoderConfig& config, const Weights& weights, int first,
            int end, int max_columns);

  // Of scratch memory.
  static uint64_t work_bytes(const DecoderConfig& config, int n_threads, int max_columns);

  size_t page_bytes() const override { return kv_.page_bytes(); }
  void reserve_pages(int n_pages) override { kv_.reserve(n_pages); }
  void copy_page(PageId from, PageId to) override { kv_.copy(from, to); }
  void read_page(PageId page, std::span<std::byte> out) override { kv_.read(page, out); }
  void write_page(PageId page, std::span<const std::byte> bytes) override {
    kv_.write(page, bytes);
  }
  void forward(const Batch& batch, ActivationBuffer& x) override;
  void output(const Batch& batch, const ActivationBuffer& x, std::span<float> logits,
              std::span<float> states) override;

 private:
  void store_keys_and_values(const Batch& batch, int layer);
  void attention(const Batch& batch, int layer);

  const Compute compute_;
  const DecoderConfig config_;
  const std::span<const Layer> layers_;
  const LayerNorm& final_norm_;
  const PackedMatrix& output_;
  KvStore kv_;

  std::vector<int32_t> all_columns_;  // 0, 1, 2 …
  ActivationTiles tiles_;             // of the next matmul
  ActivationBuffer qkv_;              // (max_columns, q_width + 2 * kv_width, padded)
  ActivationBuffer mixed_;            // (max_columns, q_width): the output of attention
  ActivationBuffer inner_;            // (max_columns, n_inner)
  ActivationBuffer logits_;           // (kTileColumns, n_vocab, padded)
  std::vector<uint16_t> half_;        // (2 * kv_width)
  ActivationBuffer scratch_;          // (n_threads, scratch_elements)
};

}  // namespace starchat
