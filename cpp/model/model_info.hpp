// The properties of a loaded model, as plain values.
#pragma once
#include <cstdint>
#include <string>

namespace starchat {

struct ModelInfo {
  std::string file, quantization, isa;
  int n_layer, n_embd, n_head, n_kv_head, n_ctx, n_vocab, n_threads;
  uint64_t n_params;      // unique ones: copies that the file stores are not counted
  uint64_t weight_bytes;  // resident
};

}  // namespace starchat
