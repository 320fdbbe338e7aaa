// The table of compute kernels, one per instruction set. All give bit-identical results: every
// output row has a SIMD lane of its own, sums have one fixed order, every rounding is explicit.
// Used by ops/; filled by {scalar,avx2,avx512,neon}.cpp from the templates in *_impl.hpp.
// docs/architecture.md defines the terms and explains the order of sums.
#pragma once
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "quant/types.hpp"

namespace starchat {

// Floats of one AVX-512 register, which every instruction set imitates: the output rows of a strip
// of weights, the positions of a strip of keys.
inline constexpr int kLanes = 16;
// Strips that one product multiplies together. On AVX-512, 2 strips x 6 columns need 12 integer and
// 12 float sums: 24 of 32 registers, which leaves enough for the unpacked weights.
inline constexpr int kPanelStrips = 2;
// Activation columns that lie interleaved: 4 passes of 6 columns with AVX-512 and quantized
// weights; 24 sums of the 32 registers with float weights.
inline constexpr int kTileColumns = 24;
enum class PageId : int32_t {};            // a page of the KV cache
inline constexpr int kPagePositions = 32;  // positions of a page of the KV cache: 2 strips of 16
// Means of values are summed in spans of 512 positions, which are added in order: a device that
// computes spans side by side has the same bits.
inline constexpr int kSpanPages = 16;
inline constexpr int kSpanPositions = kSpanPages * kPagePositions;
inline constexpr int kColumnLanes = 64;  // of the sums over a column that a norm needs

// Of the order of sums and every rounding: to be raised with each change of a result's bits, as
// files of computed prefixes (StarChat.save_prefix) hold them.
inline constexpr uint32_t kSumsVersion = 1;

// 32 activations, the second operand of a product with quantized weights. Their values are
// scale · 2^power · q[k]. A group of 16 blocks shares the float scale, each block has its own
// power, so a block of small values stays accurate. Multiplying by 2^power is one integer addition
// to the exponents of the weights' scales d; the group's scale is multiplied once for 512 weights.
// Weights have one scale for 32 of a row or two for 16 each: kParts, of which each has its own sum.
//   byte   0            32           36
//          | int8 q[32] | int32 power | start or scaled_sum [kParts] |
template <int kParts>
struct ActivationBlock {
  int8_t q[kBlock];  // -127 to 127
  int32_t power;     // 0 to kMaxPower, shifted left by kMantissaBits: added to a float's bits
  union {            // depends on the kind of the weights; sums are those of a part
    int32_t start[kParts];     // initial dot product, -offset · sum of q: see weight_offset()
    float scaled_sum[kParts];  // 2^power · sum of q, to be multiplied by a minimum of weights
  };
};
static_assert(sizeof(ActivationBlock<1>) == 40 && sizeof(ActivationBlock<2>) == 44);

// Blocks of a group: 512 weights a row, at most 17 KB for both strips of a panel (q8_0), beside
// their scales as floats, 4 KB for each scale of a block, so they
// stay in an L1 cache of 32 KB while all columns of a sweep are multiplied with them.
inline constexpr int kGroupBlocks = 16;
// The power of the blocks that hold values as large as the largest of their group. A float holds
// 2^15 · (sum of 32 q) exactly: it has 27 bits, of which at most 12 are significant.
inline constexpr int kMaxPower = 15;
inline constexpr int kMantissaBits = 23;

constexpr int groups_of(int n_blocks) { return (n_blocks + kGroupBlocks - 1) / kGroupBlocks; }

// What activations hold for weights of a kind: floats, or blocks of so many parts whose last field
// is `start` for this offset, or `scaled_sum` where there is none. A product takes no others.
struct ActivationFormat {
  int n_parts;  // 0: floats
  int weight_offset;
  friend constexpr bool operator==(const ActivationFormat&, const ActivationFormat&) = default;

  constexpr size_t block_bytes() const {
    return n_parts == 1   ? sizeof(ActivationBlock<1>)
           : n_parts == 2 ? sizeof(ActivationBlock<2>)
                          : kBlock * sizeof(float);
  }
  // Byte offset, within a tile, of the scales of its groups: they follow its blocks.
  constexpr size_t scales_offset(int n_blocks, int width) const {
    return block_bytes() * n_blocks * width;
  }
  // Size of one column of activations.
  constexpr size_t column_bytes(int n_blocks) const {
    return scales_offset(n_blocks, 1) + (n_parts == 0 ? 0 : groups_of(n_blocks) * sizeof(float));
  }
};
constexpr ActivationFormat activation_format(WeightKind weights) {
  const int n_parts = weights.is_float() ? 0 : weights.n_parts();
  switch (weights.codes) {
    case Codes::Centred:
      return {n_parts, 1 << (weights.bits - 1)};
    case Codes::Signed:
    case Codes::Table:
      return {n_parts, 128};
    default:
      return {n_parts, 0};
  }
}

// Memory layout of a strip, 16 rows of weights. Floats: plain, [k][16 rows]. Quantized: a row of
// groups of up to 16 blocks. Every load is 64-byte aligned, the size is that of the file.
//   group   words u32[n][n_words][16]   halves u16[n_halves][n][16]   codes u8[blocks][64·bits]
// The words and halves are those in which the file's n blocks of a row (of 32 or 256 weights) keep
// their scales; halves are padded to 64 bytes. Without words, a group is a row of pairs of blocks,
// so that a step with one column reads memory strictly in order:
//   pair    halves u16[n_halves][2][16]   codes u8[2][64·bits]
//
// Quad j holds the weights k = 4j to 4j + 3 of 16 rows, 64 in all. Weight k of a row is in byte
// i = 4·row + k % 4 of the quad's 64-byte vector. `bits` vectors hold the eight quads of a block,
// the digit is a quad, letters its bits from the lowest on:
//   bit     7  6  5  4  3  2  1  0
//   2 bits  3b 3a 2b 2a 1b 1a 0b 0a   vector 0; 1: quads 4 to 7
//   3 bits  3b 3a 1c 1b 1a 0c 0b 0a   vector 0; 1: quads 4, 5 and 7
//           7c 3c 6c 6b 6a 2c 2b 2a   vector 2
//   4 bits  4d 4c 4b 4a 0d 0c 0b 0a   vector 0; 1 to 3: quads j and j + 4
//   5 bits  7e 7d 6e 6d 5e 5d 4e 4d   vector 0
//           4c 4b 4a 0e 0d 0c 0b 0a   vector 1; 2 to 4: quads j and j + 4
//   6 bits  3f 3e 3d 3c 1f 1e 1d 1c   vector 0; 3: quads 5 and 7
//           1b 1a 0f 0e 0d 0c 0b 0a   vector 1; 2, 4, 5: quads 2 and 3, 4 and 5, 6 and 7
//   8 bits  the weights of quad j in vector j
struct StripLayout {
  // To be raised with every change: processes of two builds may share packed weights.
  static constexpr uint64_t kVersion = 4;
  WeightKind kind;

  constexpr int n_words() const {
    switch (kind.scales) {
      case Scales::FourBits:
      case Scales::EightBits:
        return 4;
      case Scales::SixBits:
      case Scales::SixBits16:
        return 3;
      case Scales::SixBitsSplit:
        return 1;
      default:
        return 0;
    }
  }
  constexpr int n_halves() const { return kind.has_min() || n_words() == 1 ? 2 : 1; }
  // Of a group of n blocks of 32 weights.
  constexpr int file_blocks(int n_blocks) const { return n_words() == 0 ? n_blocks : n_blocks / 8; }
  constexpr bool is_paired() const { return n_words() == 0; }
  constexpr size_t codes_bytes() const { return static_cast<size_t>(kind.bits) * 64; }  // a block
  constexpr size_t pair_bytes() const {
    return 2 * codes_bytes() + (is_paired() ? n_halves() * 64 : 0);
  }
  // In a group of n_blocks, of the file's block number `block`.
  constexpr size_t half_offset(int n_blocks, int block, int half) const {
    if (is_paired()) return block / 2 * pair_bytes() + half * 64 + block % 2 * 32;
    const int n = file_blocks(n_blocks);
    return static_cast<size_t>(n) * n_words() * 64 + half * ((n + 1) / 2 * 64) + block * 32;
  }
  // In a group of n_blocks, of a block of 32.
  constexpr size_t codes_offset(int n_blocks, int block) const {
    const size_t before = is_paired() ? n_halves() * 64 : half_offset(n_blocks, 0, n_halves());
    return before + block / 2 * pair_bytes() + block % 2 * codes_bytes();
  }
  constexpr size_t group_bytes(int n_blocks) const {
    if (is_paired() && n_blocks % 2 == 0) return n_blocks / 2 * pair_bytes();
    return codes_offset(n_blocks, n_blocks - 1) + codes_bytes();
  }
  constexpr size_t strip_bytes(int n_blocks) const {
    if (kind.is_float()) return static_cast<size_t>(n_blocks) * kBlock * kind.bits / 8 * kLanes;
    const int rest = n_blocks % kGroupBlocks;
    return n_blocks / kGroupBlocks * group_bytes(kGroupBlocks) + (rest ? group_bytes(rest) : 0);
  }
};

// The product of a panel (one or two consecutive strips of a packed matrix) with all columns of a
// batch.
struct PanelProduct {
  const std::byte* strips;  // (n_strips, strip_bytes) of StripLayout
  size_t strip_bytes;
  int n_strips;              // at most kPanelStrips
  const std::byte* columns;  // tiles of up to 24 columns (width). For quantized weights:
                             // ActivationBlock (n_blocks, width), then scales (n_groups, width);
                             // for float weights: float (n_blocks, width, 32)
  int n_blocks, n_columns;
  const float* bias;  // (n_strips * 16) or null
  bool accumulate;    // out += instead of out =
  float* out;         // (n_columns, out_stride): n_strips * 16 values each
  size_t out_stride;
};

// Softmax attention for one position: the query heads that share one key head. It has three parts,
// which threads may divide: scores by pages, weights by heads, means by dimensions. Each part reads
// the pages once for all heads.
struct Attention {
  const float* q;  // (n_heads, head_dim)
  int n_heads, head_dim;
  const PageId* pages;                // of the sequence
  const uint16_t* const* page_table;  // where each page is, by id
  size_t k_offset, v_offset;          // of this layer and key head within a page
  int v_row_elements;                 // head_dim rounded up to a multiple of 16
  int n_positions;                    // cached positions, including this one
  float* scratch;                     // scratch_elements()
  float* out;                         // (n_heads, head_dim)

  const uint16_t* page(int i) const { return page_table[static_cast<int32_t>(pages[i])]; }
  int n_pages() const { return (n_positions + kPagePositions - 1) / kPagePositions; }
  size_t score_stride() const { return static_cast<size_t>(n_pages()) * kPagePositions; }
  // Scratch memory: sums of values of a span (n_heads, v_row_elements), 1 / sums of weights
  // (n_heads), scores (n_heads, score_stride), which become the weights in place.
  float* sums() const { return scratch; }
  float* inverse_sums() const { return sums() + static_cast<size_t>(n_heads) * v_row_elements; }
  float* scores() const { return inverse_sums() + n_heads; }
  size_t scratch_elements() const { return n_heads * (v_row_elements + 1 + score_stride()); }
};

struct Kernels {
  const char* name;
  void (*panel_product[std::size(kTensorTypes)])(const PanelProduct&);  // by TensorType
  // Writes column number `column` of a tile that has `width` columns.
  void (*quantize)(const float* x, int n_blocks, WeightKind weights, std::byte* tile, int column,
                   int width);
  void (*layer_norm)(const float* x, const float* gain, const float* bias, int n, float eps,
                     float* out);
  void (*gelu)(float* x, int n);  // in place, tanh approximation; n a multiple of 16
  void (*attention_scores)(const Attention&, int first_page, int end_page);
  void (*attention_weights)(const Attention&, int first_head, int end_head);
  void (*attention_means)(const Attention&, int first_dim, int end_dim);  // multiples of 16
  void (*to_half)(const float* x, int n, uint16_t* out);                  // round to nearest even
};

// All three parts, in the caller's thread.
inline void attend(const Kernels& kernels, const Attention& a) {
  kernels.attention_scores(a, 0, a.n_pages());
  kernels.attention_weights(a, 0, a.n_heads);
  kernels.attention_means(a, 0, a.v_row_elements);
}

// The instruction sets that this machine can run, the fastest last.
std::vector<std::string> available_instruction_sets();

// Null if this machine or build cannot run this instruction set.
const Kernels* find_kernels(std::string_view name);
// The same; UnsupportedFeatureError where it is null.
const Kernels& kernels_named(std::string_view name);

// The fastest one, or the one that STARCHAT_ISA names; UnsupportedFeatureError if it cannot run.
const Kernels& select_kernels();

}  // namespace starchat
