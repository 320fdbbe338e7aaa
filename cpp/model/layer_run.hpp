// The interface between a decoder and the device that computes its layers. Nothing finer is
// virtual: a device with its own memory gets the residual stream once a step, not once an
// operation.
#pragma once
#include <cstddef>
#include <span>

#include "model/batch.hpp"
#include "ops/activation_buffer.hpp"

namespace starchat {

// Consecutive layers of a decoder, computed in one place, with the keys and values of these layers.
class LayerRun {
 public:
  virtual ~LayerRun() = default;

  virtual size_t page_bytes() const = 0;  // of the run's part of one page of the KV cache
  // Makes room for the pages with ids below n_pages. Throws OutOfMemoryError.
  virtual void reserve_pages(int n_pages) = 0;
  virtual void copy_page(PageId from, PageId to) = 0;
  // The run's part of a full page, page_bytes() of it, in one layout whatever the device: that of
  // KvStore. Parts of runs, one after the other, are the page of one run with all layers.
  virtual void read_page(PageId page, std::span<std::byte> out) = 0;
  virtual void write_page(PageId page, std::span<const std::byte> bytes) = 0;

  // x: the residual stream (n_columns, n_embd), in and out. Writes keys and values of all columns.
  virtual void forward(const Batch& batch, ActivationBuffer& x) = 0;
  // Called for the last run only, after forward(): the final norm and the output matrix. logits
  // (n_logits, n_vocab), states (n_states, n_embd).
  virtual void output(const Batch& batch, const ActivationBuffer& x, std::span<float> logits,
                      std::span<float> states) = 0;
};

}  // namespace starchat
