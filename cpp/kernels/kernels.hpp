// The table of compute kernels, one per instruction set, all with bit-identical results: output
// rows sit in 16 lanes, sums run in one fixed order, every rounding is explicit.
// Read by ops/; filled by {scalar,avx2,avx512,neon}.cpp from the templates in *_impl.hpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "quant/types.hpp"

namespace starchat {

inline constexpr int kStripRows = 16;      // output rows side by side in the lanes
inline constexpr int kPanelStrips = 2;     // side by side in one product
inline constexpr int kTileColumns = 24;    // activation columns that lie interleaved
inline constexpr int kBlock = 32;          // weights of one row that share a scale
inline constexpr int kPagePositions = 32;  // of a page of the KV cache: two tiles of 16 lanes

// 32 activations as the second operand of a matrix product with quantized weights: scale · 2^power
// · q. A group of blocks shares the scale; a block with smaller values has a power of its own. So a
// block's product is scaled by adding to the exponents of d, which is cheaper than multiplying, and
// a group's is multiplied once.
struct ActivationBlock {
  int8_t q[kBlock];    // within [-127, 127]
  int32_t power;       // 0 to kMaxPower, where a float has its exponent
  union {              // by the type of the weights
    int32_t start;     // of the dot product: takes out the offset at which *_0 weights are stored
    float scaled_sum;  // 2^power · sum of q: what the minimum of *_1 weights multiplies
  };
};
static_assert(sizeof(ActivationBlock) == 40);

inline constexpr int kGroupBlocks = 16;
inline constexpr int kMaxPower = 15;  // of the blocks that reach as far as their group
inline constexpr int kMantissaBits = 23;

constexpr int groups_of(int n_blocks) { return (n_blocks + kGroupBlocks - 1) / kGroupBlocks; }

// Where a tile has the scales of its groups, in bytes: behind its blocks.
constexpr size_t scales_offset(int n_blocks, int width) {
  return sizeof(ActivationBlock) * n_blocks * width;
}

// Of one column, as the operand of weights that are quantized or not.
constexpr size_t activation_bytes(bool quantized, int n_blocks) {
  return quantized ? scales_offset(n_blocks, 1) + groups_of(n_blocks) * sizeof(float)
                   : n_blocks * kBlock * sizeof(float);
}

// How 16 rows of quantized weights lie in a strip: records of two blocks, so that every load is
// 64-byte aligned at unchanged size. Within a block four successive k of the 16 rows make one
// 64-byte vector ("quad"): byte 4*row + t holds k = 4*quad + t. Of 4 bits, quads 0..3 lie in the
// low nibbles and 4..7 (k + 16) in the high ones. Of 5 bits, quads 0..3 lie in the low five; above
// them the low three of 4..7, whose upper two lie in qh, those of quad 4 lowest.
//   { f16 d[2][16] | *_1: f16 m[2][16] | q5: u8 qh[2][64] | u8 qs[2][256], q8: i8 qs[2][512] }
// f16 and f32 strips are plain: [k][16].
struct StripLayout {
  int bits;      // 4, 5 or 8; 0 for floats
  bool has_min;  // *_1
  constexpr size_t record_bytes() const { return qs_offset() + 2 * qs_bytes(); }
  constexpr size_t m_offset() const { return 64; }
  constexpr size_t qh_offset() const { return has_min ? 128 : 64; }
  constexpr size_t qs_offset() const { return qh_offset() + (bits == 5 ? 128 : 0); }
  constexpr size_t qs_bytes() const { return bits == 8 ? 512 : 256; }
};
constexpr StripLayout strip_layout(TensorType type) {
  switch (type) {
    case TensorType::Q4_0:
      return {4, false};
    case TensorType::Q4_1:
      return {4, true};
    case TensorType::Q5_0:
      return {5, false};
    case TensorType::Q5_1:
      return {5, true};
    case TensorType::Q8_0:
      return {8, false};
    default:
      return {0, false};
  }
}

// A panel: some strips of a packed matrix, one after the other, times all columns of a batch.
struct PanelProduct {
  const std::byte* strips;  // (n_strips, strip_bytes) of StripLayout
  size_t strip_bytes;
  int n_strips;              // at most kPanelStrips
  const std::byte* columns;  // tiles: (n_blocks, width) of ActivationBlock and (n_groups, width)
                             // scales, or (n_blocks, width) of float[32]
  int n_blocks, n_columns;
  const float* bias;  // (n_strips * 16) or null
  bool accumulate;    // out += instead of out =
  float* out;         // (n_columns, out_stride): n_strips * 16 values each
  size_t out_stride;
};

// Softmax attention of one position's query heads that share a key head, in three parts that a
// team may split: scores by pages, weights by heads, means by dimensions. Each part reads the pages
// once for all heads.
struct Attention {
  const float* q;  // (n_heads, head_dim)
  int n_heads, head_dim;
  const uint16_t* const* pages;  // of the sequence
  size_t k_offset, v_offset;     // of this layer and key head within a page
  int v_row_elements;            // head_dim rounded up to whole vectors
  int n_positions;               // cached, this one included
  float* scratch;                // scratch_elements()
  float* out;                    // (n_heads, head_dim)

  int n_pages() const { return (n_positions + kPagePositions - 1) / kPagePositions; }
  size_t score_stride() const { return static_cast<size_t>(n_pages()) * kPagePositions; }
  // Sums of values (n_heads, v_row_elements), inverse sums of weights (n_heads), scores.
  float* sums() const { return scratch; }
  float* inverse_sums() const { return sums() + static_cast<size_t>(n_heads) * v_row_elements; }
  float* scores() const { return inverse_sums() + n_heads; }
  size_t scratch_elements() const { return n_heads * (v_row_elements + 1 + score_stride()); }
};

struct Kernels {
  const char* name;
  void (*panel_product[7])(const PanelProduct&);  // by TensorType
  // Into one column of a tile of so many (width).
  void (*quantize)(const float* x, int n_blocks, TensorType weights, std::byte* tile, int column,
                   int width);
  void (*layer_norm)(const float* x, const float* gain, const float* bias, int n, float* out);
  void (*gelu)(float* x, int n);  // in place, tanh approximation; n a multiple of 16
  void (*attention_scores)(const Attention&, int first_page, int end_page);
  void (*attention_weights)(const Attention&, int first_head, int end_head);
  void (*attention_means)(const Attention&, int first_dim, int end_dim);  // multiples of 16
  void (*to_half)(const float* x, int n, uint16_t* out);                  // round to nearest even
};

// All of it, in the caller's thread.
inline void attend(const Kernels& kernels, const Attention& a) {
  kernels.attention_scores(a, 0, a.n_pages());
  kernels.attention_weights(a, 0, a.n_heads);
  kernels.attention_means(a, 0, a.v_row_elements);
}

// Those that this machine can run, the best last.
std::vector<std::string> available_instruction_sets();

// Null where this machine or build cannot run it.
const Kernels* find_kernels(std::string_view name);

// The best of them, or the one that STARCHAT_ISA names; UnsupportedFeatureError if it cannot run.
const Kernels& select_kernels();

}  // namespace starchat
