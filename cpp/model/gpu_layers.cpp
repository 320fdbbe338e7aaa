#include "model/gpu_layers.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <utility>

#include "gpu/self_test.hpp"
#include "model/kv_store.hpp"

namespace starchat {

namespace {

constexpr size_t kAlignment = 256;                    // of what has an address
constexpr size_t kMaxLists = 64;                      // that are kept
constexpr int kLogitColumns = 32;                     // of one list
constexpr size_t kAttentionBytes = size_t{64} << 20;  // of scratch memory, more for few columns
constexpr int kDecodeColumns = 16;                    // of which attention is not divided

size_t aligned(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }
int padded(int n_rows) { return (n_rows + kLanes - 1) / kLanes * kLanes; }
int n_spans(int n_positions) { return (n_positions + kSpanPositions - 1) / kSpanPositions; }

// A power of two from 256 on, or the whole context: so few kinds of lists are recorded.
int rounded_positions(int n_positions, int n_ctx) {
  const int whole = (n_ctx + kPagePositions - 1) / kPagePositions * kPagePositions;
  const auto rounded = static_cast<int>(std::bit_ceil(static_cast<unsigned>(n_positions)));
  return std::min(std::max(rounded, 256), whole);
}

// Scores, sums of spans and inverse sums of one column.
size_t attention_bytes(const DecoderConfig& config, int n_positions) {
  return sizeof(float) * config.n_head *
         (static_cast<size_t>(n_positions) + n_spans(n_positions) * config.head_dim + 1);
}

// Of the scratch memory of attention.
size_t attention_scratch_bytes(const DecoderConfig& config, int max_columns) {
  const size_t column = attention_bytes(config, rounded_positions(config.n_ctx, config.n_ctx));
  return std::min(std::max(kAttentionBytes, kDecodeColumns * column), max_columns * column);
}

std::array<const Linear*, 4> matrices_of(const Layer& layer) {
  return {&layer.qkv, &layer.attn_out, &layer.ffn_up, &layer.ffn_down};
}

// Words of a column of activations, whatever the matrix.
uint32_t widest_column(const Weights& weights) {
  uint32_t words = column_words(weights.output.kind(), weights.output.n_cols);
  for (const Layer& layer : weights.layers) {
    for (const Linear* linear : matrices_of(layer))
      words = std::max(words, column_words(linear->weight.kind(), linear->weight.n_cols));
  }
  return words;
}

std::vector<TensorType> types_of(const Weights& weights, int first) {
  std::vector<TensorType> types{weights.output.type};
  for (const Layer& layer : std::span(weights.layers).subspan(first)) {
    for (const Linear* linear : matrices_of(layer)) types.push_back(linear->weight.type);
  }
  std::ranges::sort(types);
  types.erase(std::unique(types.begin(), types.end()), types.end());
  return types;
}

std::span<const std::byte> matrix_bytes(const PackedMatrix& matrix) {
  return {matrix.data, matrix.size_bytes()};
}

}  // namespace

// What a buffer gets, one part after the other; and where their addresses are to be kept.
class GpuLayers::Parts {
 public:
  template <class Value>
  void add(const std::vector<Value>& values, uint64_t& address) {
    address = 0;
    if (!values.empty()) add(std::as_bytes(std::span(values)), address);
  }
  void add(std::span<const std::byte> bytes, uint64_t& address) {
    parts_.push_back({bytes, &address, size_bytes_});
    size_bytes_ += aligned(bytes.size());
  }
  void add(const LayerNorm& norm, Norm& to) {
    add(norm.gain, to.gain);
    add(norm.bias, to.bias);
    to.eps = norm.eps;
  }
  void add(const PackedMatrix& matrix, Matrix& to) {
    add(matrix_bytes(matrix), to.weights);
    add(matrix.column_order, to.order);
    to.bias = 0;
    to.kind = matrix.kind();
    to.n_cols = matrix.n_cols;
    to.n_strips = matrix.n_strips();
    to.strip_words = static_cast<uint32_t>(matrix.strip_bytes() / sizeof(uint32_t));
  }
  void add(const Linear& linear, Matrix& to) {
    add(linear.weight, to);
    add(linear.bias, to.bias);
  }

  size_t size_bytes() const { return size_bytes_; }
  Buffer upload(const std::shared_ptr<Device>& device) const {
    Buffer buffer(device, size_bytes_, Place::kDevice);
    for (const Part& part : parts_) {
      *part.address = buffer.address() + part.offset;
      device->upload(buffer, part.offset, part.bytes);
    }
    return buffer;
  }

 private:
  struct Part {
    std::span<const std::byte> bytes;
    uint64_t* address;
    size_t offset;
  };
  std::vector<Part> parts_;
  size_t size_bytes_ = 0;
};

namespace {

// The parts of a layer, added to anything that has add().
template <class Parts, class Layer, class DeviceLayer>
void add_layer(Parts& parts, const Layer& layer, DeviceLayer& to) {
  parts.add(layer.attn_norm, to.attn_norm);
  parts.add(layer.qkv, to.qkv);
  parts.add(layer.attn_out, to.attn_out);
  parts.add(layer.ffn_norm, to.ffn_norm);
  parts.add(layer.ffn_up, to.ffn_up);
  parts.add(layer.ffn_down, to.ffn_down);
}

}  // namespace

uint64_t GpuLayers::layer_bytes(const Layer& layer) {
  Parts parts;
  DeviceLayer to;
  add_layer(parts, layer, to);
  return parts.size_bytes();
}

uint64_t GpuLayers::output_bytes(const Weights& weights) {
  Parts parts;
  Norm norm;
  Matrix output;
  parts.add(weights.final_norm, norm);
  parts.add(weights.output, output);
  return parts.size_bytes();
}

GpuLayers::GpuLayers(const std::shared_ptr<Device>& device, const DecoderConfig& config,
                     const Weights& weights, int first, int max_columns)
    : shaders_(tested_shaders(device, types_of(weights, first))),
      device_(device),
      config_(config),
      logits_stride_(padded(config.n_vocab)),
      head_words_(KvStore({1, 1, config.head_dim}).page_bytes() / sizeof(uint32_t)),
      page_bytes_(head_words_ * sizeof(uint32_t) * config.n_kv_head * (config.n_layer - first)),
      layers_(config.n_layer - first) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    Parts parts;
    add_layer(parts, weights.layers[first + i], layers_[i]);
    layers_[i].memory = parts.upload(device_);
  }
  Parts parts;
  parts.add(weights.final_norm, final_norm_);
  parts.add(weights.output, output_);
  output_memory_ = parts.upload(device_);

  const auto floats = [&](size_t n_columns, size_t n_rows) {
    return Buffer(device_, n_columns * n_rows * sizeof(float), Place::kDevice);
  };
  const StepPlaces most = places(
      {max_columns, rounded_positions(config.n_ctx, config.n_ctx), max_columns, max_columns});
  step_ = Buffer(device_, most.size_bytes, Place::kDevice);
  const size_t x_bytes = sizeof(float) * max_columns * config.n_embd;
  staging_ = Buffer(device_, most.size_bytes + x_bytes, Place::kHost);
  x_ = floats(max_columns, config.n_embd);
  tiles_ = floats(max_columns, widest_column(weights));
  qkv_ = floats(max_columns, padded(config.q_width() + 2 * config.kv_width()));
  inner_ = floats(max_columns, padded(config.n_inner));
  attention_ = Buffer(device_, attention_scratch_bytes(config, max_columns), Place::kDevice);
  logits_ = floats(kLogitColumns, logits_stride_);
  states_ = floats(max_columns, config.n_embd);
  results_ = Buffer(device_, logits_.size_bytes() + states_.size_bytes(), Place::kHost);
}

uint64_t GpuLayers::work_bytes(const DecoderConfig& config, const Weights& weights,
                               int max_columns) {
  const size_t rows = 2 * config.n_embd + widest_column(weights) + padded(config.n_inner) +
                      padded(config.q_width() + 2 * config.kv_width());
  return sizeof(float) * (max_columns * rows + kLogitColumns * padded(config.n_vocab)) +
         attention_scratch_bytes(config, max_columns);
}

int GpuLayers::fitting_layers(const DecoderConfig& config, const Weights& weights, int max_columns,
                              uint64_t free_bytes) {
  const uint64_t page = KvStore({1, config.n_kv_head, config.head_dim}).page_bytes();
  const uint64_t context = (config.n_ctx + kPagePositions - 1) / kPagePositions * page;
  uint64_t need = work_bytes(config, weights, max_columns) + output_bytes(weights);
  int n = 0;
  while (n < config.n_layer) {
    need += layer_bytes(weights.layers[config.n_layer - 1 - n]) + context;
    if (need > free_bytes) break;
    ++n;
  }
  return n;
}

void GpuLayers::reserve_pages(int n_pages) {
  if (static_cast<size_t>(n_pages) <= pages_.size()) return;
  const size_t n_new = n_pages - pages_.size(), each = aligned(page_bytes_);
  pages_.reserve(n_pages);
  slabs_.reserve(slabs_.size() + 1);
  slabs_.emplace_back(device_, n_new * each, Place::kDevice);
  for (size_t i = 0; i < n_new; ++i) pages_.push_back({slabs_.size() - 1, i * each});
}

void GpuLayers::copy_page(PageId from, PageId to) {
  const auto &source = pages_[static_cast<size_t>(from)], &target = pages_[static_cast<size_t>(to)];
  CommandList list(device_);
  list.copy(slabs_[source.slab], source.offset, slabs_[target.slab], target.offset, page_bytes_);
  device_->run(list);
}

void GpuLayers::read_page(PageId page, std::span<std::byte> out) {
  const PagePlace& place = pages_[static_cast<size_t>(page)];
  device_->download(slabs_[place.slab], place.offset, out);
}

void GpuLayers::write_page(PageId page, std::span<const std::byte> bytes) {
  const PagePlace& place = pages_[static_cast<size_t>(page)];
  device_->upload(slabs_[place.slab], place.offset, bytes);
}

// Each column may be of another sequence, with as many pages.
GpuLayers::StepPlaces GpuLayers::places(const Shape& shape) const {
  const size_t n_pages = shape.n_positions / kPagePositions;
  StepPlaces at{};
  at.pages = aligned(shape.n_columns * sizeof(StepColumn));
  at.logits = aligned(at.pages + shape.n_columns * n_pages * sizeof(uint64_t));
  at.states = aligned(at.logits + shape.n_logits * sizeof(int32_t));
  at.size_bytes = aligned(at.states + shape.n_states * sizeof(int32_t));
  return at;
}

void GpuLayers::write_step(const Batch& batch, const Shape& shape) {
  const StepPlaces at = places(shape);
  std::byte* data = staging_.data();
  auto* columns = reinterpret_cast<StepColumn*>(data + at.columns);
  auto* pages = reinterpret_cast<uint64_t*>(data + at.pages);
  uint32_t n_pages = 0, first = 0;
  for (int c = 0; c < batch.n_columns(); ++c) {
    if (c == 0 || batch.caches[c] != batch.caches[c - 1]) {
      first = n_pages;
      const auto& ids = batch.caches[c]->pages();
      const size_t n = std::min<size_t>(ids.size(), shape.n_positions / kPagePositions);
      for (size_t i = 0; i < n; ++i) {
        const PagePlace& place = pages_[static_cast<size_t>(ids[i])];
        pages[n_pages++] = slabs_[place.slab].address() + place.offset;
      }
    }
    columns[c] = {static_cast<uint32_t>(batch.positions[c]), first};
  }
  std::memcpy(data + at.logits, batch.logit_columns.data(),
              batch.logit_columns.size() * sizeof(int32_t));
  std::memcpy(data + at.states, batch.state_columns.data(),
              batch.state_columns.size() * sizeof(int32_t));
}

void GpuLayers::forward(const Batch& batch, ActivationBuffer& x) {
  auto* to = reinterpret_cast<float*>(staging_.data() + step_.size_bytes());
  for (int c = 0; c < batch.n_columns(); ++c)
    std::copy_n(x[c], config_.n_embd, to + static_cast<size_t>(c) * config_.n_embd);
}

void GpuLayers::output(const Batch& batch, const ActivationBuffer&, std::span<float> logits,
                       std::span<float> states) {
  const int most = *std::ranges::max_element(batch.positions) + 1;
  const Shape shape{batch.n_columns(), rounded_positions(most, config_.n_ctx), batch.n_logits(),
                    batch.n_states()};
  write_step(batch, shape);
  auto found = lists_.find(shape);
  if (found == lists_.end()) {
    if (lists_.size() == kMaxLists) lists_.clear();
    found = lists_.emplace(shape, record(shape)).first;
  }
  device_->run(found->second);

  const auto* results = reinterpret_cast<const float*>(results_.data());
  const float* state = results + logits_.size_bytes() / sizeof(float);
  std::copy_n(state, states.size(), states.data());
  for (int first = 0; first < shape.n_logits; first += kLogitColumns) {
    const int n = std::min(kLogitColumns, shape.n_logits - first);
    if (first > 0) {
      CommandList list(device_);
      record_logits(list, step_.address() + places(shape).logits + first * sizeof(int32_t), n);
      device_->run(list);
    }
    for (int c = 0; c < n; ++c) {
      std::copy_n(results + static_cast<size_t>(c) * logits_stride_, config_.n_vocab,
                  logits.data() + static_cast<size_t>(first + c) * config_.n_vocab);
    }
  }
}

CommandList GpuLayers::record(const Shape& shape) {
  CommandList list(device_);
  const StepPlaces at = places(shape);
  list.copy(staging_, 0, step_, 0, at.size_bytes);
  list.copy(staging_, step_.size_bytes(), x_, 0, sizeof(float) * shape.n_columns * config_.n_embd);
  list.barrier();
  for (size_t i = 0; i < layers_.size(); ++i) {
    record_layer(list, shape, static_cast<int>(i));
    list.cut();
  }
  const uint64_t step = step_.address();
  if (shape.n_states > 0) {
    const ActivationsPush push{.x = x_.address(),
                               .out = states_.address(),
                               .gain = final_norm_.gain,
                               .bias = final_norm_.bias,
                               .indices = step + at.states,
                               .n = static_cast<uint32_t>(config_.n_embd),
                               .x_stride = static_cast<uint32_t>(config_.n_embd),
                               .out_stride = static_cast<uint32_t>(config_.n_embd),
                               .has_indices = 1,
                               .eps = final_norm_.eps};
    shaders_->activations(list, Prologue::Norm, false, push, shape.n_states);
    list.barrier();
    list.copy(states_, 0, results_, logits_.size_bytes(),
              sizeof(float) * shape.n_states * config_.n_embd);
  }
  if (shape.n_logits > 0)
    record_logits(list, step + at.logits, std::min(kLogitColumns, shape.n_logits));
  return list;
}

void GpuLayers::record_layer(CommandList& list, const Shape& shape, int i) {
  const DeviceLayer& layer = layers_[i];
  const StepPlaces at = places(shape);
  const auto n_embd = static_cast<uint32_t>(config_.n_embd);
  const int n = shape.n_columns;
  const auto norm = [&](const Norm& of) {
    return ActivationsPush{
        .x = x_.address(), .gain = of.gain, .bias = of.bias, .x_stride = n_embd, .eps = of.eps};
  };
  const auto qkv_stride = static_cast<uint32_t>(padded(config_.q_width() + 2 * config_.kv_width()));
  const auto inner_stride = static_cast<uint32_t>(padded(config_.n_inner));

  prepare(list, Prologue::Norm, layer.qkv, norm(layer.attn_norm), n);
  multiply(list, layer.qkv, false, qkv_, qkv_stride, n);
  AttentionPush push{.qkv = qkv_.address(),
                     .columns = step_.address() + at.columns,
                     .pages = step_.address() + at.pages,
                     .scores = attention_.address(),
                     .qkv_stride = qkv_stride,
                     .n_columns = static_cast<uint32_t>(n),
                     .n_heads = static_cast<uint32_t>(config_.n_head),
                     .n_kv_heads = static_cast<uint32_t>(config_.n_kv_head),
                     .head_dim = static_cast<uint32_t>(config_.head_dim),
                     .v_row_words = static_cast<uint32_t>(padded(config_.head_dim)) / 2,
                     .layer_words = static_cast<uint32_t>(head_words_ * config_.n_kv_head * i),
                     .score_stride = static_cast<uint32_t>(shape.n_positions),
                     .n_spans = static_cast<uint32_t>(n_spans(shape.n_positions)),
                     .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim))};
  shaders_->store_kv(list, push);
  list.barrier();
  // As many columns at a time as scratch memory has room for.
  const int most = static_cast<int>(
      std::min<size_t>(n, attention_.size_bytes() / attention_bytes(config_, shape.n_positions)));
  const uint32_t out_stride = column_words(layer.attn_out.kind, layer.attn_out.n_cols);
  for (int first = 0; first < n; first += most) {
    const int n_part = std::min(most, n - first);
    const size_t n_heads = static_cast<size_t>(n_part) * config_.n_head;
    push.n_columns = static_cast<uint32_t>(n_part);
    push.qkv = qkv_.address() + sizeof(float) * first * qkv_stride;
    push.columns = step_.address() + at.columns + sizeof(StepColumn) * first;
    push.sums = push.scores + sizeof(float) * n_heads * push.score_stride;
    push.inverse = push.sums + sizeof(float) * n_heads * push.n_spans * push.head_dim;
    shaders_->attention(list, push, shape.n_positions);
    list.barrier();
    prepare(list, Prologue::Spans, layer.attn_out,
            {.x = push.sums,
             .out = tiles_.address() + sizeof(float) * first * out_stride,
             .gain = push.inverse,
             .columns = push.columns,
             .n_spans = push.n_spans,
             .head_dim = push.head_dim},
            n_part);
  }
  multiply(list, layer.attn_out, true, x_, n_embd, n);

  prepare(list, Prologue::Norm, layer.ffn_up, norm(layer.ffn_norm), n);
  multiply(list, layer.ffn_up, false, inner_, inner_stride, n);
  prepare(list, Prologue::Gelu, layer.ffn_down, {.x = inner_.address(), .x_stride = inner_stride},
          n);
  multiply(list, layer.ffn_down, true, x_, n_embd, n);
}

// indices: the address of the columns of x.
void GpuLayers::record_logits(CommandList& list, uint64_t indices, int n) {
  prepare(list, Prologue::Norm, output_,
          {.x = x_.address(),
           .gain = final_norm_.gain,
           .bias = final_norm_.bias,
           .indices = indices,
           .x_stride = static_cast<uint32_t>(config_.n_embd),
           .has_indices = 1,
           .eps = final_norm_.eps},
          n);
  multiply(list, output_, false, logits_, static_cast<uint32_t>(logits_stride_), n);
  list.copy(logits_, 0, results_, 0, sizeof(float) * n * logits_stride_);
}

// Writes the activations that a matrix is multiplied with.
void GpuLayers::prepare(CommandList& list, Prologue source, const Matrix& matrix,
                        ActivationsPush push, int n_columns) {
  if (push.out == 0) push.out = tiles_.address();
  push.order = matrix.order;
  push.has_order = matrix.order != 0;
  push.n = static_cast<uint32_t>(matrix.n_cols);
  push.out_stride = column_words(matrix.kind, matrix.n_cols);
  shaders_->activations(list, source, !matrix.kind.is_float(), push, n_columns);
  list.barrier();
}

void GpuLayers::multiply(CommandList& list, const Matrix& matrix, bool accumulates,
                         const Buffer& out, uint32_t stride, int n_columns) {
  shaders_->product(list, matrix.kind,
                    {.weights = matrix.weights,
                     .columns = tiles_.address(),
                     .bias = matrix.bias,
                     .out = out.address(),
                     .n_blocks = static_cast<uint32_t>(matrix.n_cols / kBlock),
                     .n_columns = static_cast<uint32_t>(n_columns),
                     .column_words = column_words(matrix.kind, matrix.n_cols),
                     .n_strips = matrix.n_strips,
                     .strip_words = matrix.strip_words,
                     .out_stride = stride,
                     .has_bias = matrix.bias != 0,
                     .accumulates = accumulates});
  list.barrier();
}

}  // namespace starchat
