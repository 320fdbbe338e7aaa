#include "gpu/shaders.hpp"

#include <algorithm>

namespace starchat {

namespace {

#define SHADER(name, ...) constexpr uint32_t k_##name[] = {__VA_ARGS__};
#include "gpu/shaders.inc"
#undef SHADER

constexpr struct {
  const char* name;
  std::span<const uint32_t> words;
} kShaders[] = {
#define SHADER(name, ...) {#name, k_##name},
#include "gpu/shaders.inc"
#undef SHADER
};

uint32_t ceil_div(uint32_t n, uint32_t unit) { return (n + unit - 1) / unit; }

constexpr uint32_t kMaxNarrow = 16;  // columns of shaders/product.comp

}  // namespace

enum class Shaders::Name : uint32_t {
#define SHADER(name, ...) name,
#include "gpu/shaders.inc"
#undef SHADER
};

Shaders::Shaders(std::shared_ptr<Device> device, bool native_fma)
    : device_(std::move(device)), native_fma_(native_fma) {}

const Pipeline& Shaders::pipeline(Name name, std::initializer_list<uint32_t> constants) {
  std::vector<uint32_t> key{static_cast<uint32_t>(name), native_fma_};
  key.insert(key.end(), constants);
  const std::lock_guard lock(mutex_);
  const auto found = pipelines_.find(key);
  if (found != pipelines_.end()) return found->second;
  const auto& shader = kShaders[key[0]];
  Pipeline made(device_, shader.name, shader.words, std::span(key).subspan(1));
  return pipelines_.emplace(std::move(key), std::move(made)).first->second;
}

void Shaders::product(CommandList& list, WeightKind weights, const ProductPush& push) {
  const uint32_t bits = weights.bits, codes = static_cast<uint32_t>(weights.codes),
                 scales = static_cast<uint32_t>(weights.scales);
  if (push.n_columns > kMaxNarrow && !weights.is_float()) {
    list.dispatch(pipeline(Name::tile, {bits, codes, scales}), push, ceil_div(push.n_strips, 4),
                  ceil_div(push.n_columns, 64));
    return;
  }
  const uint32_t n_panels = ceil_div(push.n_strips, kPanelStrips);
  ProductPush part = push;
  for (uint32_t first = 0; first < push.n_columns; first += kMaxNarrow) {
    part.n_columns = std::min(kMaxNarrow, push.n_columns - first);
    uint32_t columns = 1;
    while (columns < part.n_columns) columns *= 2;
    const Pipeline& narrow = pipeline(Name::product, {bits, codes, scales, columns});
    list.dispatch(narrow, part, n_panels);
    part.columns += uint64_t{4} * kMaxNarrow * push.column_words;
    part.out += uint64_t{4} * kMaxNarrow * push.out_stride;
  }
}

void Shaders::activations(CommandList& list, Prologue source, bool quantizes,
                          const ActivationsPush& push, int n_columns) {
  const uint32_t kernel = static_cast<uint32_t>(source);
  list.dispatch(pipeline(Name::activations, {kernel, quantizes}), push,
                ceil_div(push.n, 2 * kGroupBlocks * kBlock), n_columns);
}

void Shaders::store_kv(CommandList& list, const AttentionPush& push) {
  list.dispatch(pipeline(Name::store_kv, {}), push, push.n_columns);
}

void Shaders::attention(CommandList& list, const AttentionPush& push, int n_positions) {
  const uint32_t per_kv = push.n_heads / push.n_kv_heads;
  list.dispatch(pipeline(Name::scores, {}), push, ceil_div(n_positions, 256),
                push.n_kv_heads * ceil_div(per_kv, 8), push.n_columns);
  list.barrier();
  list.dispatch(pipeline(Name::softmax, {}), push, push.n_heads, push.n_columns);
  list.barrier();
  const uint32_t items = push.head_dim / 2 * ceil_div(per_kv, 4) * push.n_kv_heads;
  list.dispatch(pipeline(Name::means, {}), push, ceil_div(n_positions, kSpanPages * kPagePositions),
                ceil_div(items, 256), push.n_columns);
}

void Shaders::probe(CommandList& list, uint64_t triples, uint64_t out, uint32_t n) {
  const struct {
    uint64_t triples, out;
    uint32_t n, padding;
  } push{triples, out, n, 0};
  list.dispatch(pipeline(Name::probe, {}), push, ceil_div(n, 256));
}

}  // namespace starchat
