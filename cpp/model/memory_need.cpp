#include "model/memory_need.hpp"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <string>
#include <utility>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "base/process_memory.hpp"
#include "base/thread_pool.hpp"
#include "model/decoder.hpp"
#include "model/kv_store.hpp"

namespace starchat {
namespace {

// Of all promises: their sum, and the process's memory when the first one was made, more by those
// that have ended since. A forked child loads nothing yet.
std::atomic<int64_t> g_promised = 0, g_resident = 0;
[[maybe_unused]] const int g_at_fork =
    pthread_atfork(nullptr, nullptr, [] { g_promised = g_resident = 0; });

constexpr uint64_t kTokenBytes = 200;  // of the tokenizer for each token, beside its own bytes

// What the need depends on.
struct Size {
  DecoderConfig config;  // n_ctx: the file's own
  uint64_t weights, vocabulary;
};

Size size_of(const ModelFile& file) {
  uint64_t vocabulary = 0;
  for (const std::string& token : file.vocabulary.tokens) vocabulary += token.size() + kTokenBytes;
  return {file.config, packed_bytes(file), vocabulary};
}

MemoryNeed need_of(const Size& size, const MemorySettings& settings) {
  DecoderConfig config = size.config;
  if (settings.n_ctx > 0) config.n_ctx = settings.n_ctx;
  const int n_threads = settings.n_threads > 0 ? settings.n_threads : available_cores();
  const auto n_pages = static_cast<uint64_t>((config.n_ctx + kPagePositions - 1) / kPagePositions);
  const uint64_t context =
      n_pages * KvStore({config.n_layer, config.n_kv_head, config.head_dim}).page_bytes();
  const int n_columns = Decoder::columns_per_step(size.weights);
  return {.weights = size.weights,
          .context = context,
          .prefix_cache = settings.prefix_cache_bytes < 0
                              ? context
                              : static_cast<uint64_t>(settings.prefix_cache_bytes),
          .work = Decoder::work_bytes(config, n_threads, n_columns) + size.vocabulary};
}

// As if the matrices had this type, where it is smaller than their own.
Size size_as(const ModelFile& file, Size size, const TypeTraits& type) {
  for (const Tensor& tensor : file.tensors) {
    if (!tensor.is_matrix() || tensor.n_cols % type.block_weights != 0) continue;
    const uint64_t n_rows = (tensor.n_rows() + kLanes - 1) / kLanes * kLanes;
    const uint64_t now = n_rows * tensor.row_bytes();
    const uint64_t then = n_rows * size_of_weights(type.type, tensor.n_cols);
    if (then < now) size.weights -= now - then;
  }
  return size;
}

// The largest context of whole pages that fits, 0 if none does.
int fitting_n_ctx(const Size& size, MemorySettings settings, int n_ctx, uint64_t left_bytes) {
  int fits = 0, too_large = (n_ctx + kPagePositions - 1) / kPagePositions;  // in pages
  while (too_large - fits > 1) {
    const int n_pages = fits + (too_large - fits) / 2;
    settings.n_ctx = n_pages * kPagePositions;
    (need_of(size, settings).total() <= left_bytes ? fits : too_large) = n_pages;
  }
  return fits * kPagePositions;
}

// A type that files of this format have, and what they need then.
struct Smaller {
  const TypeTraits* type = nullptr;
  uint64_t need_bytes = 0;
};

// The largest smaller type that fits, or the smallest one if none does.
Smaller smaller_type(const ModelFile& file, const Size& size, const MemorySettings& settings,
                     uint64_t left_bytes) {
  Smaller best;
  const uint64_t now = need_of(size, settings).total();
  for (const TypeTraits& type : kTensorTypes) {
    if (!is_quantized(type.type) || (file.format == "ggml" && type.ftype < 0)) continue;
    const uint64_t then = need_of(size_as(file, size, type), settings).total();
    if (then >= now) continue;
    const bool fits = then <= left_bytes, best_fits = best.need_bytes <= left_bytes;
    const bool is_better = fits && best_fits ? then > best.need_bytes : then < best.need_bytes;
    if (best.type == nullptr || is_better) best = {&type, then};
  }
  return best;
}

std::string in_units(uint64_t size_bytes) {
  const bool is_large = size_bytes >= 1'000'000'000;
  std::array<char, 40> text{};
  std::snprintf(text.data(), text.size(), is_large ? "%.2f GB" : "%.1f MB",
                static_cast<double>(size_bytes) / (is_large ? 1e9 : 1e6));
  return text.data();
}

// file: null if the weights are in memory.
void check(const std::string& path, const Size& size, const ModelFile* file,
           const MemorySettings& settings, std::optional<FreeMemory> left, MemoryPromise& promise) {
  if (!left) return;
  if (const uint64_t promised = MemoryPromise::others()) {
    left->bytes -= std::min(left->bytes, promised);
    left->source += ", less what is being loaded";
  }
  MemoryNeed need = need_of(size, settings);
  const uint64_t in_memory = file ? 0 : need.weights;
  need.weights -= in_memory;
  if (need.total() <= left->bytes) {
    promise.make(need.total());
    return;
  }
  const int n_ctx = settings.n_ctx > 0 ? settings.n_ctx : size.config.n_ctx;
  std::string text = path + ": needs " + in_units(need.total()) + " of memory (" +
                     (file ? "weights " + in_units(need.weights) + ", " : "") + "context of " +
                     format_number(n_ctx) + " tokens " + in_units(need.context) +
                     ", prefix cache " + in_units(need.prefix_cache) + ", computing " +
                     in_units(need.work) + "), but " + in_units(left->bytes) + " are free (" +
                     left->source + "): free memory";
  if (const int fitting = fitting_n_ctx(size, settings, n_ctx, left->bytes + in_memory))
    text += ", or load with n_ctx=" + std::to_string(fitting);
  if (file) {
    const Smaller smaller = smaller_type(*file, size, settings, left->bytes);
    if (smaller.type && smaller.need_bytes <= left->bytes)
      text += std::string(", or take the model in ") + smaller.type->name + ", which needs " +
              in_units(smaller.need_bytes);
    else if (smaller.type)
      text += std::string("; even in ") + smaller.type->name + " the model needs " +
              in_units(smaller.need_bytes);
  }
  text += "; check_memory=False loads it nevertheless";
  throw OutOfMemoryError(text, {.param = "path",
                                .limit = static_cast<int64_t>(left->bytes),
                                .got = static_cast<int64_t>(need.total())});
}

}  // namespace

void MemoryPromise::make(uint64_t size_bytes) noexcept {
  size_bytes_ = static_cast<int64_t>(size_bytes);
  if (g_promised.fetch_add(size_bytes_) == 0) g_resident = process_memory().resident;
}

MemoryPromise::~MemoryPromise() {
  g_resident += size_bytes_;
  g_promised -= std::min(size_bytes_, g_promised.load());  // none of a forked child
}

uint64_t MemoryPromise::others() noexcept {
  const int64_t promised = g_promised;
  if (promised == 0) return 0;
  return std::max<int64_t>(0,
                           promised - std::max<int64_t>(0, process_memory().resident - g_resident));
}

MemoryNeed memory_need(const ModelFile& file, const MemorySettings& settings) {
  return need_of(size_of(file), settings);
}

void check_memory(const ModelFile& file, const MemorySettings& settings,
                  std::optional<FreeMemory> left, MemoryPromise& promise) {
  check(file.path(), size_of(file), &file, settings, std::move(left), promise);
}

void check_memory(const LoadedFile& file, const MemorySettings& settings,
                  std::optional<FreeMemory> left, MemoryPromise& promise) {
  const Size size{file.config, file.weights.size_bytes(), /*vocabulary=*/0};
  check(file.path, size, nullptr, settings, std::move(left), promise);
}

}  // namespace starchat
