#include "gpu/self_test.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "base/errors.hpp"
#include "gpu/buffer.hpp"
#include "quant/half.hpp"

namespace starchat {

namespace {

// Mapped memory of the device with the elements of a vector.
template <class Element>
class Shared {
 public:
  Shared(const std::shared_ptr<Device>& device, const std::vector<Element>& values)
      : size_(values.size()), buffer_(device, values.size() * sizeof(Element), Place::kHost) {
    std::memcpy(buffer_.data(), values.data(), values.size() * sizeof(Element));
  }
  Shared(const std::shared_ptr<Device>& device, size_t n)
      : Shared(device, std::vector<Element>(n)) {}
  Element* data() const { return reinterpret_cast<Element*>(buffer_.data()); }
  uint64_t address() const { return buffer_.address(); }
  std::span<const uint32_t> words() const {
    return {reinterpret_cast<const uint32_t*>(buffer_.data()), size_ * sizeof(Element) / 4};
  }

 private:
  size_t size_;
  Buffer buffer_;
};

// The same values everywhere: distributions of the standard library differ.
class Values {
 public:
  uint32_t bits() { return static_cast<uint32_t>(generator_()); }
  float signed_unit() { return static_cast<float>(static_cast<int32_t>(bits())) * 0x1p-31f; }
  // Each block of another size; some are zero.
  std::vector<float> activations(size_t n) {
    std::vector<float> values(n);
    for (size_t i = 0; i < n; ++i) {
      const int size = static_cast<int>(i / kBlock * 7 % 23);
      values[i] = size == 22 ? 0.0f : std::ldexp(signed_unit() * 3, -size);
    }
    return values;
  }
  std::vector<float> floats(size_t n, float size) {
    std::vector<float> values(n);
    for (float& value : values) value = signed_unit() * size;
    return values;
  }
  uint16_t half() {  // one in eight is zero or subnormal
    return bits() % 8 == 0 ? bits() % 1024 * (bits() % 2) : f32_to_f16(signed_unit());
  }

 private:
  std::mt19937 generator_{1};
};

void fill_strips(Values& random, WeightKind kind, int n_strips, int n_blocks,
                 std::span<std::byte> strips) {
  const StripLayout layout{kind};
  for (auto& byte : strips) byte = static_cast<std::byte>(random.bits());
  const auto set_halves = [&](size_t at, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      const uint16_t half = random.half();
      std::memcpy(strips.data() + at + 2 * i, &half, 2);
    }
  };
  if (kind.bits == 32) {
    const auto values = random.floats(strips.size() / 4, 1.0f);
    std::memcpy(strips.data(), values.data(), strips.size());
  } else if (kind.is_float()) {  // as bf16, they are finite too
    set_halves(0, strips.size() / 2);
  } else {
    for (int strip = 0; strip < n_strips; ++strip) {
      size_t group = strip * layout.strip_bytes(n_blocks);
      for (int first = 0; first < n_blocks; first += kGroupBlocks) {
        const int n = std::min(kGroupBlocks, n_blocks - first);
        for (int block = 0; block < layout.file_blocks(n); ++block) {
          for (int half = 0; half < layout.n_halves(); ++half)
            set_halves(group + layout.half_offset(n, block, half), kLanes);
        }
        group += layout.group_bytes(n);
      }
    }
  }
}

template <class To, class From>
std::span<const uint32_t> words_of(const std::vector<From>& values) {
  return {reinterpret_cast<const To*>(values.data()), values.size() * sizeof(From) / sizeof(To)};
}
std::span<const uint32_t> words_of(const std::vector<float>& values) {
  return words_of<uint32_t>(values);
}

bool is_nan(uint32_t bits) { return (bits & 0x7fffffff) > 0x7f800000; }

}  // namespace

ShaderTest::ShaderTest(Shaders& shaders) : shaders_(shaders), scalar_(kernels_named("scalar")) {}

template <class Record>
void ShaderTest::run(const Record& record) {
  CommandList list(shaders_.device());
  record(list);
  shaders_.device()->run(list);
}

void ShaderTest::compare(const std::string& operation, std::span<const uint32_t> expected,
                         std::span<const uint32_t> actual) const {
  for (size_t i = 0; i < expected.size(); ++i) {
    const uint32_t a = expected[i], b = actual[i];
    if (a == b || (is_nan(a) && is_nan(b))) continue;
    char values[96];
    std::snprintf(values, sizeof values, "value %zu is %a (%08x), expected %a (%08x)", i,
                  std::bit_cast<float>(b), b, std::bit_cast<float>(a), a);
    const DeviceInfo& info = shaders_.device()->info();
    throw UnsupportedFeatureError(
        info.name + ", driver " + info.driver + ": wrong result of " + operation + ": " + values +
        "; this driver cannot be used: install another version of it, or load with gpu_layers=0");
  }
}

void ShaderTest::arithmetic() {
  constexpr int kTriples = 4096;
  Values random;
  std::vector<float> triples;
  std::vector<uint32_t> expected;
  for (int i = 0; i < kTriples; ++i) {
    // Random mantissas, sums that cancel; nothing near the ends of the range.
    const auto draw = [&](int exponents) {
      const int exponent = static_cast<int>(random.bits() % exponents) - exponents / 2;
      const float value = random.signed_unit();
      return std::ldexp(value == 0.0f ? 1.0f : value, exponent);
    };
    float a = draw(24);
    const float b = draw(24);
    if (i % 8 == 3)  // half way between two halves
      a = std::bit_cast<float>((std::bit_cast<uint32_t>(a) & ~0x1fffu) | 0x1000u);
    float c = draw(48);
    if (i % 4 == 1) c = -a * b;
    if (i % 4 == 2) c = std::ldexp(std::round(random.signed_unit() * 64), -24) - a * b;
    triples.insert(triples.end(), {a, b, c});
    for (const float value : {std::fma(a, b, c), a / b, std::sqrt(std::fabs(a))})
      expected.push_back(std::bit_cast<uint32_t>(value));
    expected.push_back(f32_to_f16(a));
  }
  const Shared<float> input(shaders_.device(), triples);
  const Shared<uint32_t> output(shaders_.device(), expected.size());
  run([&](CommandList& list) {
    shaders_.probe(list, input.address(), output.address(), kTriples);
  });
  compare(shaders_.native_fma() ? "fma, division, square root or rounding to a half"
                                : "emulated fma, division, square root or rounding to a half",
          expected, output.words());
}

void ShaderTest::product(const TypeTraits& type, int n_strips, int n_blocks, int n_columns,
                         bool accumulates) {
  const WeightKind kind = type.kind;
  const size_t strip_bytes = StripLayout{kind}.strip_bytes(n_blocks);
  const int n_cols = n_blocks * kBlock, n_rows = n_strips * kLanes;
  Values random;
  std::vector<std::byte> strips(n_strips * strip_bytes);
  fill_strips(random, kind, n_strips, n_blocks, strips);
  const auto x = random.activations(static_cast<size_t>(n_columns) * n_cols);
  const auto bias = random.floats(n_rows, 1.0f);
  auto expected = random.floats(static_cast<size_t>(n_columns) * n_rows, 1.0f);
  const auto& device = shaders_.device();
  const uint32_t words = column_words(kind, n_cols);
  const Shared<std::byte> weights(device, strips);
  const Shared<float> input(device, x), biases(device, bias), output(device, expected);
  const Shared<uint32_t> columns(device, static_cast<size_t>(n_columns) * words);
  run([&](CommandList& list) {
    if (kind.is_float()) {
      std::memcpy(columns.data(), x.data(), x.size() * sizeof(float));
    } else {
      shaders_.activations(list, Prologue::Plain, true,
                           {.x = input.address(),
                            .out = columns.address(),
                            .n = static_cast<uint32_t>(n_cols),
                            .x_stride = static_cast<uint32_t>(n_cols),
                            .out_stride = words},
                           n_columns);
      list.barrier();
    }
    shaders_.product(list, kind,
                     {.weights = weights.address(),
                      .columns = columns.address(),
                      .bias = biases.address(),
                      .out = output.address(),
                      .n_blocks = static_cast<uint32_t>(n_blocks),
                      .n_columns = static_cast<uint32_t>(n_columns),
                      .column_words = words,
                      .n_strips = static_cast<uint32_t>(n_strips),
                      .strip_words = static_cast<uint32_t>(strip_bytes / 4),
                      .out_stride = static_cast<uint32_t>(n_rows),
                      .has_bias = accumulates,
                      .accumulates = accumulates});
  });
  for (int c = 0; c < n_columns; ++c) {  // each is a tile of its own
    const float* column = x.data() + static_cast<size_t>(c) * n_cols;
    std::vector<std::byte> tile(activation_format(kind).column_bytes(n_blocks));
    if (kind.is_float()) {
      std::memcpy(tile.data(), column, n_cols * sizeof(float));
    } else {
      scalar_.quantize(column, n_blocks, kind, tile.data(), 0, 1);
    }
    for (int strip = 0; strip < n_strips; ++strip) {
      scalar_.panel_product[static_cast<int>(type.type)](
          {.strips = strips.data() + strip * strip_bytes,
           .strip_bytes = strip_bytes,
           .n_strips = 1,
           .columns = tile.data(),
           .n_blocks = n_blocks,
           .n_columns = 1,
           .bias = accumulates ? bias.data() + strip * kLanes : nullptr,
           .accumulate = accumulates,
           .out = expected.data() + static_cast<size_t>(c) * n_rows + strip * kLanes,
           .out_stride = static_cast<size_t>(n_rows)});
    }
  }
  compare("a product with " + std::string(type.name) + " weights (" + std::to_string(n_rows) +
              ", " + std::to_string(n_cols) + ") and " + std::to_string(n_columns) + " columns",
          words_of(expected), output.words());
}

void ShaderTest::activations(Prologue source, bool quantizes, int n, int n_columns, bool reorders) {
  static constexpr const char* kNames[] = {"no operation", "a norm", "gelu"};
  constexpr WeightKind kWeights{2, Codes::FromMinimum, Scales::FourBits};  // sums of both parts
  Values random;
  auto x = random.activations(static_cast<size_t>(n_columns) * n);
  const auto gain = random.floats(n, 2.0f), bias = random.floats(n, 0.5f);
  if (source == Prologue::Plain && n_columns > 2) {
    x[n + 1] = std::nanf("");
    x[2 * n] = HUGE_VALF;
  }
  std::vector<int32_t> order(n), indices(n_columns);
  for (int i = 0; i < n; ++i) order[i] = n - 1 - i;
  for (int c = 0; c < n_columns; ++c) indices[c] = n_columns - 1 - c;
  const uint32_t words = quantizes ? column_words(kWeights, n) : n;
  const auto& device = shaders_.device();
  const Shared<float> input(device, x), gains(device, gain), biases(device, bias);
  const Shared<int32_t> orders(device, order), all_indices(device, indices);
  const Shared<uint32_t> output(device, static_cast<size_t>(n_columns) * words);
  run([&](CommandList& list) {
    shaders_.activations(list, source, quantizes,
                         {.x = input.address(),
                          .out = output.address(),
                          .gain = gains.address(),
                          .bias = biases.address(),
                          .order = orders.address(),
                          .indices = all_indices.address(),
                          .n = static_cast<uint32_t>(n),
                          .x_stride = static_cast<uint32_t>(n),
                          .out_stride = words,
                          .has_order = reorders,
                          .has_indices = reorders,
                          .eps = 1e-5f},
                         n_columns);
  });
  std::vector<uint32_t> expected(output.words().size());
  for (int c = 0; c < n_columns; ++c) {
    const float* column = x.data() + static_cast<size_t>(reorders ? indices[c] : c) * n;
    std::vector<float> values(column, column + n), ordered(n);
    if (source == Prologue::Norm)
      scalar_.layer_norm(column, gain.data(), bias.data(), n, 1e-5f, values.data());
    if (source == Prologue::Gelu) scalar_.gelu(values.data(), n);
    for (int i = 0; i < n; ++i) ordered[i] = values[reorders ? order[i] : i];
    uint32_t* out = expected.data() + static_cast<size_t>(c) * words;
    if (!quantizes) {
      std::memcpy(out, ordered.data(), n * sizeof(float));
      continue;
    }
    const int n_blocks = n / kBlock;
    std::vector<std::byte> tile(activation_format(kWeights).column_bytes(n_blocks));
    scalar_.quantize(ordered.data(), n_blocks, kWeights, tile.data(), 0, 1);
    const auto* blocks = reinterpret_cast<const ActivationBlock<2>*>(tile.data());
    for (int b = 0; b < n_blocks; ++b) {
      const int8_t* q = blocks[b].q;
      std::memcpy(out + 8 * b, q, kBlock);
      const auto sum = [](const int8_t* first) { return std::accumulate(first, first + 16, 0); };
      out[8 * n_blocks + b] = static_cast<uint32_t>(blocks[b].power >> kMantissaBits) |
                              (sum(q) & 0xfff) << 8 | (sum(q + 16) & 0xfff) << 20;
    }
    std::memcpy(out + 9 * n_blocks,
                tile.data() + activation_format(kWeights).scales_offset(n_blocks, 1),
                groups_of(n_blocks) * sizeof(float));
  }
  compare(std::string(quantizes ? "quantization" : "activations") + " after " +
              kNames[static_cast<int>(source)] + " of " + std::to_string(n) + " values",
          expected, output.words());
}

void ShaderTest::attention(int n_heads, int n_kv_heads, int head_dim, int n_positions,
                           int n_columns) {
  const int v_row = (head_dim + kLanes - 1) / kLanes * kLanes, per_kv = n_heads / n_kv_heads;
  const size_t head_halves = static_cast<size_t>(kPagePositions) * (head_dim + v_row);
  const size_t layer_halves = head_halves * n_kv_heads;  // the second of two layers is computed
  const int width = (n_heads + 2 * n_kv_heads) * head_dim, q_width = n_heads * head_dim;
  const int n_pages = (n_positions + kPagePositions - 1) / kPagePositions;
  const auto& device = shaders_.device();
  Values random;
  std::vector<uint16_t> memory(2 * (n_pages + 1) * layer_halves);
  for (uint16_t& half : memory) half = random.half();
  const Shared<uint16_t> device_memory(device, memory);
  std::vector<uint64_t> addresses;
  std::vector<const uint16_t*> pages;
  std::vector<PageId> ids;
  for (int i = 0; i <= n_pages; ++i) {  // in another order than in memory
    const size_t at = 2 * ((i + 1) % (n_pages + 1)) * layer_halves;
    addresses.push_back(device_memory.address() + at * sizeof(uint16_t));
    pages.push_back(memory.data() + at);
    ids.push_back(PageId{i});
  }
  std::vector<StepColumn> columns{{5, static_cast<uint32_t>(n_pages)}};
  for (int i = 0; i < n_columns; ++i)
    columns.push_back({static_cast<uint32_t>(n_positions - n_columns + i), 0});
  const int n = n_columns + 1;
  const auto qkv = random.floats(static_cast<size_t>(n) * width, 4.0f);
  const uint32_t stride = n_pages * kPagePositions,
                 n_spans = (n_positions + kSpanPositions - 1) / kSpanPositions;
  const Shared<float> input(device, qkv), scores(device, size_t{stride} * n * n_heads),
      sums(device, static_cast<size_t>(n) * n_spans * q_width),
      inverse(device, static_cast<size_t>(n) * n_heads),
      output(device, static_cast<size_t>(n) * q_width);
  const Shared<StepColumn> step(device, columns);
  const Shared<uint64_t> page_list(device, addresses);
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  run([&](CommandList& list) {
    const AttentionPush push{.qkv = input.address(),
                             .columns = step.address(),
                             .pages = page_list.address(),
                             .scores = scores.address(),
                             .sums = sums.address(),
                             .inverse = inverse.address(),
                             .qkv_stride = static_cast<uint32_t>(width),
                             .n_columns = static_cast<uint32_t>(n),
                             .n_heads = static_cast<uint32_t>(n_heads),
                             .n_kv_heads = static_cast<uint32_t>(n_kv_heads),
                             .head_dim = static_cast<uint32_t>(head_dim),
                             .v_row_words = static_cast<uint32_t>(v_row / 2),
                             .layer_words = static_cast<uint32_t>(layer_halves / 2),
                             .score_stride = stride,
                             .n_spans = n_spans,
                             .scale = scale};
    shaders_.store_kv(list, push);
    list.barrier();
    shaders_.attention(list, push, n_positions);
    list.barrier();
    shaders_.activations(list, Prologue::Spans, false,
                         {.x = sums.address(),
                          .out = output.address(),
                          .gain = inverse.address(),
                          .columns = step.address(),
                          .n = static_cast<uint32_t>(q_width),
                          .out_stride = static_cast<uint32_t>(q_width),
                          .n_spans = n_spans,
                          .head_dim = static_cast<uint32_t>(head_dim)},
                         n);
  });
  for (int c = 0; c < n; ++c) {
    const int in_page = columns[c].position % kPagePositions;
    auto* page =
        const_cast<uint16_t*>(pages[columns[c].first_page + columns[c].position / kPagePositions]);
    for (int head = 0; head < n_kv_heads; ++head) {
      const float* key = qkv.data() + static_cast<size_t>(c) * width + q_width + head * head_dim;
      uint16_t* keys = page + layer_halves + head * head_halves;
      uint16_t* values = keys + kPagePositions * head_dim + in_page * v_row;
      for (int d = 0; d < head_dim; ++d) {
        keys[(in_page / kLanes * head_dim + d) * kLanes + in_page % kLanes] = f32_to_f16(key[d]);
        values[d] = f32_to_f16(key[n_kv_heads * head_dim + d]);
      }
    }
  }
  const std::string shape = std::to_string(n_heads) + " heads of " + std::to_string(head_dim) +
                            " and " + std::to_string(n_positions) + " positions";
  compare("stored keys and values of " + shape, words_of<uint32_t>(memory), device_memory.words());
  std::vector<float> expected(static_cast<size_t>(n) * q_width);
  for (int c = 0; c < n; ++c) {
    for (int head = 0; head < n_kv_heads; ++head) {
      const size_t first = static_cast<size_t>(head) * per_kv * head_dim;
      const size_t k_offset = layer_halves + head * head_halves;
      Attention a{.q = qkv.data() + static_cast<size_t>(c) * width + first,
                  .n_heads = per_kv,
                  .head_dim = head_dim,
                  .pages = ids.data() + columns[c].first_page,
                  .page_table = pages.data(),
                  .k_offset = k_offset,
                  .v_offset = k_offset + static_cast<size_t>(kPagePositions) * head_dim,
                  .v_row_elements = v_row,
                  .n_positions = static_cast<int>(columns[c].position) + 1,
                  .scratch = nullptr,
                  .out = expected.data() + static_cast<size_t>(c) * q_width + first};
      std::vector<float> scratch(a.scratch_elements());
      a.scratch = scratch.data();
      attend(scalar_, a);
    }
  }
  compare("attention of " + shape, words_of(expected), output.words());
}

std::shared_ptr<Shaders> tested_shaders(std::shared_ptr<Device> device,
                                        std::span<const TensorType> types) {
  static std::mutex mutex;
  static std::weak_ptr<Shaders> known;
  static std::set<TensorType> tested;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Shaders> shaders = known.lock();
  if (!shaders || shaders->device() != device) {
    tested.clear();
    shaders = std::make_shared<Shaders>(device, true);
    try {
      ShaderTest(*shaders).arithmetic();
    } catch (const UnsupportedFeatureError&) {
      shaders = std::make_shared<Shaders>(device, false);
      ShaderTest(*shaders).arithmetic();
    }
    ShaderTest test(*shaders);
    for (const Prologue source : {Prologue::Plain, Prologue::Norm, Prologue::Gelu}) {
      for (const bool quantizes : {false, true})
        test.activations(source, quantizes, 1056, 3, false);
    }
    test.attention(6, 2, 24, 600, 3);
    known = shaders;
  }
  for (const TensorType type : types) {
    if (tested.contains(type)) continue;
    for (const int n_columns : {1, 2, 4, 7, 11, 20})  // each a pipeline
      ShaderTest(*shaders).product(traits(type), 3, 40, n_columns, true);
    tested.insert(type);
  }
  return shaders;
}

}  // namespace starchat
