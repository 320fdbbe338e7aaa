#include "ops/packed_matrix.hpp"

#include <cstring>

namespace starchat {

namespace {

// Moves bit t of 4 bits to byte t of a word, and back.
uint32_t to_bytes(uint32_t bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }
uint32_t from_bytes(uint32_t word) { return (word & 0x01010101u) * 0x01020408u >> 24 & 15; }

// Addresses of one block of one row in its strip.
struct BlockPlace {
  StripLayout layout;
  std::byte *d, *m, *qh, *qs;  // this row's; quads of qs are 64 bytes apart

  BlockPlace(WeightKind kind, std::byte* strip, int block, int row) : layout{kind} {
    std::byte* record = strip + static_cast<size_t>(block / 2) * layout.record_bytes();
    const size_t half = block % 2;
    d = record + half * 32 + row * 2;
    m = d + layout.m_offset();
    qh = record + layout.qh_offset() + half * 64 + row * 4;
    qs = record + layout.qs_offset() + half * layout.qs_bytes() + row * 4;
  }
  int n_quads() const { return layout.bits == 8 ? 8 : 4; }
};

bool is_finite_half(const std::byte* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return (half & 0x7c00) != 0x7c00;
}

bool pack_block(const std::byte* block, const BlockPlace& place) {
  const bool finite =
      is_finite_half(block) && (!place.layout.has_min() || is_finite_half(block + 2));
  std::memcpy(place.d, block, 2);
  block += 2;
  if (place.layout.has_min()) {
    std::memcpy(place.m, block, 2);
    block += 2;
  }
  if (place.layout.bits == 5) {
    uint32_t fifth, high = 0;
    std::memcpy(&fifth, block, 4);
    block += 4;
    for (int j = 0; j < 4; ++j) {
      uint32_t q;
      std::memcpy(&q, block + 4 * j, 4);
      const uint32_t upper = (q >> 4 & 0x0f0f0f0fu) | to_bytes(fifth >> (16 + 4 * j)) << 4;
      q = (q & 0x0f0f0f0fu) | to_bytes(fifth >> 4 * j) << 4 | (upper & 0x07070707u) << 5;
      high |= (upper >> 3 & 0x03030303u) << 2 * j;
      std::memcpy(place.qs + 64 * j, &q, 4);
    }
    std::memcpy(place.qh, &high, 4);
  } else {
    for (int j = 0; j < place.n_quads(); ++j) std::memcpy(place.qs + 64 * j, block + 4 * j, 4);
  }
  return finite;
}

void unpack_block(const BlockPlace& place, std::byte* block) {
  std::memcpy(block, place.d, 2);
  block += 2;
  if (place.layout.has_min()) {
    std::memcpy(block, place.m, 2);
    block += 2;
  }
  if (place.layout.bits == 5) {
    uint32_t high, fifth = 0;
    std::memcpy(&high, place.qh, 4);
    for (int j = 0; j < 4; ++j) {
      uint32_t q;
      std::memcpy(&q, place.qs + 64 * j, 4);
      const uint32_t upper = (q >> 5 & 0x07070707u) | (high >> 2 * j & 0x03030303u) << 3;
      fifth |= from_bytes(q >> 4) << 4 * j | from_bytes(upper >> 4) << (16 + 4 * j);
      q = (q & 0x0f0f0f0fu) | (upper & 0x0f0f0f0fu) << 4;
      std::memcpy(block + 4 + 4 * j, &q, 4);
    }
    std::memcpy(block, &fifth, 4);
  } else {
    for (int j = 0; j < place.n_quads(); ++j) std::memcpy(block + 4 * j, place.qs + 64 * j, 4);
  }
}

}  // namespace

size_t PackedMatrix::strip_bytes() const {
  if (is_quantized(type)) {
    return static_cast<size_t>((n_blocks() + 1) / 2) * StripLayout{kind()}.record_bytes();
  }
  return kLanes * size_of_weights(type, n_cols);
}

bool pack_strip(TensorType type, int n_cols, std::span<const std::byte> rows, std::byte* strip) {
  const int n_blocks = n_cols / kBlock;
  const size_t row_bytes = size_of_weights(type, n_cols), block_bytes = traits(type).block_bytes;
  const int n_rows = static_cast<int>(rows.size() / row_bytes);
  bool finite = true;
  for (int row = 0; row < n_rows; ++row) {
    const std::byte* source = rows.data() + row * row_bytes;
    if (is_quantized(type)) {
      for (int b = 0; b < n_blocks; ++b, source += block_bytes) {
        finite &= pack_block(source, BlockPlace(traits(type).kind, strip, b, row));
      }
    } else {
      for (int k = 0; k < n_cols; ++k) {
        const std::byte* weight = source + k * block_bytes;
        std::memcpy(strip + (static_cast<size_t>(k) * kLanes + row) * block_bytes, weight,
                    block_bytes);
        // The upper half of a float has its whole exponent: 8 bits from bit 7 on.
        finite &= block_bytes == 2 ? is_finite_half(weight)
                                   : (std::to_integer<int>(weight[3]) & 0x7f) != 0x7f ||
                                         (std::to_integer<int>(weight[2]) & 0x80) == 0;
      }
    }
  }
  return finite;
}

void unpack_row(const PackedMatrix& matrix, int row, float* out) {
  auto* strip = const_cast<std::byte*>(matrix.strip(row / kLanes));
  const int lane = row % kLanes;
  for (int b = 0; b < matrix.n_blocks(); ++b, out += kBlock) {
    std::byte block[size_of_weights(TensorType::F32, kBlock)];
    if (is_quantized(matrix.type)) {
      unpack_block(BlockPlace(matrix.kind(), strip, b, lane), block);
    } else {
      const size_t size = traits(matrix.type).block_bytes;
      for (int k = 0; k < kBlock; ++k) {
        const size_t element = static_cast<size_t>(b * kBlock + k) * kLanes + lane;
        std::memcpy(block + k * size, strip + element * size, size);
      }
    }
    dequantize_row(matrix.type, block, out, kBlock);
  }
}

}  // namespace starchat
