// One step: every column is one token of one sequence. A decoding sequence has one column, a part
// of a prompt many. Columns of one sequence are consecutive positions, in order.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/kv_pages.hpp"

namespace starchat {

struct Batch {
  std::vector<int32_t> token_ids;      // (n_columns)
  std::vector<int32_t> positions;      // (n_columns)
  std::vector<KvSequence*> caches;     // (n_columns), room reserved for each position
  std::vector<int32_t> logit_columns;  // columns whose logits are wanted, ascending
  std::vector<int32_t> state_columns;  // columns whose last hidden states are wanted, ascending

  int n_columns() const { return static_cast<int>(token_ids.size()); }
  int n_logits() const { return static_cast<int>(logit_columns.size()); }
  int n_states() const { return static_cast<int>(state_columns.size()); }
  void reserve(size_t n_columns) {
    token_ids.reserve(n_columns);
    positions.reserve(n_columns);
    caches.reserve(n_columns);
    logit_columns.reserve(n_columns);
    state_columns.reserve(n_columns);
  }
  void clear() {
    token_ids.clear();
    positions.clear();
    caches.clear();
    logit_columns.clear();
    state_columns.clear();
  }
};

// The model as the scheduler sees it: a Decoder, or a fake one in tests.
class ForwardPass {
 public:
  virtual ~ForwardPass() = default;
  virtual int n_vocab() const = 0;
  virtual int n_ctx() const = 0;
  virtual int n_embd() const = 0;
  virtual int max_columns() const = 0;  // of one batch
  virtual KvPool& kv_pool() = 0;
  virtual void copy_page(PageId from, PageId to) = 0;  // of the KV cache
  // A full page as bytes, kv_pool().page_bytes() of them; see LayerRun.
  virtual void read_page(PageId page, std::span<std::byte> out) = 0;
  virtual void write_page(PageId page, std::span<const std::byte> bytes) = 0;
  // Computes logits (n_logits, n_vocab) and hidden states after the final norm (n_states, n_embd),
  // and writes keys and values of every column to the KV cache.
  virtual void forward(const Batch& batch, std::span<float> logits, std::span<float> states) = 0;
  // There is no work until the next forward(): cores may go to other engines.
  virtual void pause() {}
};

}  // namespace starchat
