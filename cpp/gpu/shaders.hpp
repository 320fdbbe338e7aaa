// The operations of a model's layers as shaders, with the bits of cpp/kernels. Each function
// records dispatches into a list; the caller sets barriers between operations that depend on each
// other. A driver whose bits differ is refused by self_test.hpp.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "gpu/command_list.hpp"
#include "gpu/device.hpp"
#include "gpu/pipeline.hpp"
#include "kernels/kernels.hpp"

namespace starchat {

// A column of activations in device memory: floats, or, for quantized weights of any kind,
//   q int8[n_blocks][32] | meta u32[n_blocks] | scale f32[n_groups]   padded to 16 bytes
// meta has the power of a block and the sums of its halves: from these, a product makes what
// ActivationBlock has. shaders/common.glsl has the bits.
constexpr uint32_t column_words(WeightKind weights, int n_cols) {
  const int n_blocks = n_cols / kBlock;
  if (weights.is_float()) return n_cols;
  return (9 * n_blocks + groups_of(n_blocks) + 3) / 4 * 4;
}

// What shaders are told: addresses in device memory, then counts. Strides are in words.
struct ProductPush {
  uint64_t weights;   // strips, 64-byte aligned
  uint64_t columns;   // (n_columns, column_words), 16-byte aligned
  uint64_t bias = 0;  // (16 * n_strips), if has_bias
  uint64_t out;       // (n_columns, out_stride): 16 * n_strips values each
  uint32_t n_blocks, n_columns, column_words, n_strips, strip_words, out_stride;
  uint32_t has_bias = 0, accumulates = 0;
};

enum class Prologue : uint32_t { Plain, Norm, Gelu, Spans };

struct ActivationsPush {
  uint64_t x;            // (n_columns, x_stride); Spans: AttentionPush::sums
  uint64_t out = 0;      // (n_columns, out_stride)
  uint64_t gain = 0;     // Norm: (n); Spans: AttentionPush::inverse
  uint64_t bias = 0;     // Norm: (n)
  uint64_t order = 0;    // int32 (n), if has_order: out[i] is of x[order[i]]
  uint64_t indices = 0;  // int32 (n_columns), if has_indices: columns of x
  uint64_t columns = 0;  // Spans: AttentionPush::columns
  uint32_t n = 0;        // a multiple of 32 for quantized weights, of 16 for others
  uint32_t x_stride = 0, out_stride = 0, has_order = 0, has_indices = 0;
  float eps = 0;
  uint32_t n_spans = 0, head_dim = 0;  // Spans
};

// Where a column of a step is in its sequence. Columns of one sequence are consecutive, and have
// the same first_page, which no other sequence has.
struct StepColumn {
  uint32_t position, first_page;
};

struct AttentionPush {
  uint64_t qkv;       // (n_columns, qkv_stride)
  uint64_t columns;   // StepColumn (n_columns)
  uint64_t pages;     // addresses of pages in the layout of KvStore, by first_page + position / 32
  uint64_t scores;    // (n_columns, n_heads, score_stride), a multiple of 32: scratch
  uint64_t sums = 0;  // (n_columns, n_spans, n_heads, head_dim): what Prologue::Spans reads
  uint64_t inverse = 0;  // (n_columns, n_heads): the same
  uint32_t qkv_stride, n_columns, n_heads, n_kv_heads, head_dim, v_row_words;
  uint32_t layer_words;            // where the layer begins in a page
  uint32_t score_stride, n_spans;  // spans of 512 positions
  float scale;                     // 1 / sqrt(head_dim)
};

class Shaders {
 public:
  // native_fma: fma() of the driver rounds once. Else it is emulated, with the same bits.
  Shaders(std::shared_ptr<Device> device, bool native_fma);

  // Any number of columns. Pipelines are made when they are first needed.
  void product(CommandList& list, WeightKind weights, const ProductPush& push);
  void activations(CommandList& list, Prologue source, bool quantizes, const ActivationsPush& push,
                   int n_columns);
  void store_kv(CommandList& list, const AttentionPush& push);
  // n_positions: the most of a column; scores and sums have room for them. With the barriers
  // between its parts, none before or after.
  void attention(CommandList& list, const AttentionPush& push, int n_positions);
  // (n, 4): fma(a, b, c), a / b, sqrt(|a|) and a as a half, of n triples.
  void probe(CommandList& list, uint64_t triples, uint64_t out, uint32_t n);

  bool native_fma() const { return native_fma_; }
  const std::shared_ptr<Device>& device() const { return device_; }

 private:
  enum class Name : uint32_t;
  const Pipeline& pipeline(Name name, std::initializer_list<uint32_t> constants);

  std::shared_ptr<Device> device_;
  bool native_fma_;
  std::mutex mutex_;                                     // of pipelines_
  std::map<std::vector<uint32_t>, Pipeline> pipelines_;  // by name and constants
};

}  // namespace starchat
