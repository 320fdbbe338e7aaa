#include "model/memory_need.hpp"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <span>
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

Size size_of(const LoadedFile& file) {
  return {file.config, file.weights.size_bytes(), /*vocabulary=*/0};
}

size_t page_bytes(const DecoderConfig& config) {
  return KvStore({config.n_layer, config.n_kv_head, config.head_dim}).page_bytes();
}

MemoryNeed need_of(const Size& size, const MemorySettings& settings) {
  DecoderConfig config = size.config;
  if (settings.n_ctx > 0) config.n_ctx = settings.n_ctx;
  const int n_threads = settings.n_threads > 0 ? settings.n_threads : available_cores();
  const auto n_pages = static_cast<uint64_t>((config.n_ctx + kPagePositions - 1) / kPagePositions);
  const uint64_t context = n_pages * page_bytes(config);
  const int n_columns = Decoder::columns_per_step(size.weights);
  return {.weights = size.weights,
          .context = context,
          .prefix_cache = settings.prefix_cache_bytes < 0
                              ? context
                              : static_cast<uint64_t>(settings.prefix_cache_bytes),
          .work = Decoder::work_bytes(config, n_threads, n_columns) + size.vocabulary,
          .draft = settings.draft_bytes};
}

// Types that a user can ask for. Those of GGUF files are the presets of src/starchat/convert.
struct Choice {
  const char* name;
  TensorType base, output;  // output: also of an embedding that is the output matrix, too
  TensorType (*qkv)(int layer, int n_layer);
  TensorType attn_out;
  TensorType (*ffn_down)(int layer, int n_layer);
};

template <TensorType kType>
TensorType always(int, int) {
  return kType;
}

// The first and last eighth, and every third layer between.
template <TensorType kMore, TensorType kRest>
TensorType more(int layer, int n_layer) {
  const int first = n_layer / 8, last = 7 * n_layer / 8;
  return layer < first || layer >= last || (layer - first) % 3 == 2 ? kMore : kRest;
}

template <TensorType kType>
constexpr Choice alike(const char* name) {
  return {name, kType, kType, always<kType>, kType, always<kType>};
}

using enum TensorType;
constexpr Choice kGgmlChoices[] = {alike<Q8_0>("q8_0"), alike<Q5_1>("q5_1"), alike<Q5_0>("q5_0"),
                                   alike<Q4_1>("q4_1"), alike<Q4_0>("q4_0")};
constexpr Choice kGgufChoices[] = {
    alike<Q8_0>("Q8_0"),
    alike<Q6_K>("Q6_K"),
    {"Q5_K_M", Q5_K, Q6_K, more<Q6_K, Q5_K>, Q5_K, more<Q6_K, Q5_K>},
    {"Q4_K_M", Q4_K, Q6_K, more<Q6_K, Q4_K>, Q4_K, more<Q6_K, Q4_K>},
    {"Q3_K_M", Q3_K, Q6_K, [](int layer, int) { return layer < 2 ? Q5_K : Q4_K; }, Q4_K,
     [](int layer, int n_layer) { return layer < n_layer / 16 ? Q5_K : Q4_K; }},
    {"Q2_K", Q2_K, Q6_K, always<Q4_K>, Q3_K, always<Q3_K>},
};

TensorType type_in(const Choice& choice, const ModelFile& file, const Tensor& tensor) {
  switch (tensor.role) {
    case Role::Output:
      return choice.output;
    case Role::TokenEmbedding:
      return file.find(Role::Output) ? choice.base : choice.output;
    case Role::Qkv:
      return choice.qkv(tensor.layer, file.config.n_layer);
    case Role::AttnOut:
      return choice.attn_out;
    case Role::FfnDown:
      return choice.ffn_down(tensor.layer, file.config.n_layer);
    default:
      return choice.base;
  }
}

// As if the matrices had these types, where they are smaller than their own.
Size size_as(const ModelFile& file, Size size, const Choice& choice) {
  for (const Tensor& tensor : file.tensors) {
    const TensorType type = type_in(choice, file, tensor);
    if (!tensor.is_matrix() || tensor.n_cols % traits(type).block_weights != 0) continue;
    const uint64_t now = packed_bytes(tensor, tensor.type), then = packed_bytes(tensor, type);
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

// What files of this format can be, and what they need then.
struct Smaller {
  const char* name = nullptr;
  uint64_t need_bytes = 0;
};

// The largest smaller choice that fits, or the smallest one if none does.
Smaller smaller_choice(const ModelFile& file, const Size& size, const MemorySettings& settings,
                       uint64_t left_bytes) {
  Smaller best;
  const uint64_t now = need_of(size, settings).total();
  const bool is_ggml = file.format == "ggml";
  for (const Choice& choice :
       is_ggml ? std::span<const Choice>(kGgmlChoices) : std::span<const Choice>(kGgufChoices)) {
    const uint64_t then = need_of(size_as(file, size, choice), settings).total();
    if (then >= now) continue;
    const bool fits = then <= left_bytes, best_fits = best.need_bytes <= left_bytes;
    const bool is_better = fits && best_fits ? then > best.need_bytes : then < best.need_bytes;
    if (best.name == nullptr || is_better) best = {choice.name, then};
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
                     in_units(need.work) +
                     (need.draft ? ", draft model " + in_units(need.draft) : "") + "), but " +
                     in_units(left->bytes) + " are free (" + left->source + "): free memory";
  if (const int fitting = fitting_n_ctx(size, settings, n_ctx, left->bytes + in_memory))
    text += ", or load with n_ctx=" + std::to_string(fitting);
  if (file) {
    const Smaller smaller = smaller_choice(*file, size, settings, left->bytes);
    if (smaller.name && smaller.need_bytes <= left->bytes)
      text += std::string(", or take the model in ") + smaller.name + ", which needs " +
              in_units(smaller.need_bytes);
    else if (smaller.name)
      text += std::string("; even in ") + smaller.name + " the model needs " +
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

uint64_t draft_bytes(const LoadedFile& draft, const DecoderConfig& model, MemorySettings settings) {
  const DecoderConfig& config = draft.config;
  settings.n_ctx = std::min(settings.n_ctx > 0 ? settings.n_ctx : model.n_ctx, config.n_ctx);
  if (settings.prefix_cache_bytes > 0)
    settings.prefix_cache_bytes =
        settings.prefix_cache_bytes / page_bytes(model) * page_bytes(config);
  const MemoryNeed need = need_of(size_of(draft), settings);
  return need.total() - need.weights;
}

void check_memory(const ModelFile& file, const MemorySettings& settings,
                  std::optional<FreeMemory> left, MemoryPromise& promise) {
  check(file.path(), size_of(file), &file, settings, std::move(left), promise);
}

void check_memory(const LoadedFile& file, const MemorySettings& settings,
                  std::optional<FreeMemory> left, MemoryPromise& promise) {
  check(file.path, size_of(file), nullptr, settings, std::move(left), promise);
}

}  // namespace starchat
