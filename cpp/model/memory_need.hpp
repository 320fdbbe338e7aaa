// Whether a model fits into memory, told before its weights are read: what the model takes, what is
// left, and what else would fit. Otherwise the kernel's OOM killer would end the process.
#pragma once
#include <cstdint>
#include <optional>

#include "base/free_memory.hpp"
#include "format/model_file.hpp"
#include "model/weights.hpp"

namespace starchat {

struct MemorySettings {
  int n_threads = 0, n_ctx = 0;     // as in load_model()
  int64_t prefix_cache_bytes = -1;  // negative: as much as one whole context takes
  uint64_t draft_bytes = 0;         // of a draft model, whose weights are in memory
};

// In bytes.
struct MemoryNeed {
  uint64_t weights;       // as they are packed
  uint64_t context;       // keys and values of one reply that fills the context
  uint64_t prefix_cache;  // when it is full
  uint64_t work;          // activations, logits, vocabulary
  uint64_t draft;         // all of a draft model but its weights

  uint64_t total() const { return weights + context + prefix_cache + work + draft; }
};

// `file` is without duplicates. Each further reply that fills the context takes `context` again.
MemoryNeed memory_need(const ModelFile& file, const MemorySettings& settings);
// What a draft model takes beside its weights. Its prefix cache has as many pages as the model's.
uint64_t draft_bytes(const LoadedFile& draft, const DecoderConfig& model, MemorySettings settings);

// What a load was found to have room for, until it has ended: another load of this process cannot
// count on it. What the process has taken meanwhile counts as taken by loads.
class MemoryPromise {
 public:
  MemoryPromise() = default;
  MemoryPromise(const MemoryPromise&) = delete;
  ~MemoryPromise();

  void make(uint64_t size_bytes) noexcept;
  static uint64_t others() noexcept;  // promised to all loads, and not taken yet

 private:
  int64_t size_bytes_ = 0;
};

// Throw OutOfMemoryError if the need is more than what is left: it says both, and which n_ctx and
// which type of weights would fit. Do nothing where it is not known what is left.
void check_memory(const ModelFile& file, const MemorySettings& settings,
                  std::optional<FreeMemory> left, MemoryPromise& promise);
// Of weights that are in memory.
void check_memory(const LoadedFile& file, const MemorySettings& settings,
                  std::optional<FreeMemory> left, MemoryPromise& promise);

}  // namespace starchat
