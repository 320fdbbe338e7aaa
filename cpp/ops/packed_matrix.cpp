#include "ops/packed_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quant/half.hpp"

namespace starchat {

namespace {

bool is_finite_half(const std::byte* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return is_finite(half);
}

// The codes of one row of a block in its strip, from the eight quads and back. at: the row's bytes
// of the first vector; StripLayout has the bits.
struct CodesPlace {
  std::byte* at;

  uint32_t get(int vector) const {
    uint32_t word;
    std::memcpy(&word, at + 64 * vector, 4);
    return word;
  }
  void put(int vector, uint32_t word) const { std::memcpy(at + 64 * vector, &word, 4); }
};

// Bits first to first + n - 1 of each byte.
template <int n>
uint32_t bits_at(uint32_t word, int first) {
  return word >> first & 0x01010101u * ((1 << n) - 1);
}

template <int kBits>
void put_codes(const CodesPlace& place, const uint32_t (&q)[8]) {
  if constexpr (kBits == 8) {
    for (int j = 0; j < 8; ++j) place.put(j, q[j]);
  } else if constexpr (kBits == 4) {
    for (int j = 0; j < 4; ++j) place.put(j, q[j] | q[j + 4] << 4);
  } else if constexpr (kBits == 5) {
    uint32_t high = 0;
    for (int j = 0; j < 4; ++j) {
      place.put(1 + j, q[j] | bits_at<3>(q[j + 4], 0) << 5);
      high |= bits_at<2>(q[j + 4], 3) << 2 * j;
    }
    place.put(0, high);
  } else if constexpr (kBits == 6) {
    for (int part = 0; part < 2; ++part) {
      const uint32_t* of = q + 4 * part;
      place.put(3 * part, bits_at<4>(of[1], 2) | bits_at<4>(of[3], 2) << 4);
      place.put(3 * part + 1, of[0] | bits_at<2>(of[1], 0) << 6);
      place.put(3 * part + 2, of[2] | bits_at<2>(of[3], 0) << 6);
    }
  } else if constexpr (kBits == 3) {
    for (int part = 0; part < 2; ++part) {
      const uint32_t* of = q + 4 * part;
      place.put(part, of[0] | of[1] << 3 | bits_at<2>(of[3], 0) << 6);
    }
    place.put(2, q[2] | q[6] << 3 | bits_at<1>(q[3], 2) << 6 | bits_at<1>(q[7], 2) << 7);
  } else {
    static_assert(kBits == 2);
    for (int part = 0; part < 2; ++part) {
      const uint32_t* of = q + 4 * part;
      place.put(part, of[0] | of[1] << 2 | of[2] << 4 | of[3] << 6);
    }
  }
}

template <int kBits>
void get_codes(const CodesPlace& place, uint32_t (&q)[8]) {
  if constexpr (kBits == 8) {
    for (int j = 0; j < 8; ++j) q[j] = place.get(j);
  } else if constexpr (kBits == 4) {
    for (int j = 0; j < 8; ++j) q[j] = bits_at<4>(place.get(j % 4), j / 4 * 4);
  } else if constexpr (kBits == 5) {
    for (int j = 0; j < 4; ++j) {
      q[j] = bits_at<5>(place.get(1 + j), 0);
      q[j + 4] = bits_at<3>(place.get(1 + j), 5) | bits_at<2>(place.get(0), 2 * j) << 3;
    }
  } else if constexpr (kBits == 6) {
    for (int j = 0; j < 4; ++j) {
      const uint32_t rest = place.get(j / 2 * 3), low = place.get(j / 2 * 3 + 1 + j % 2);
      q[2 * j] = bits_at<6>(low, 0);
      q[2 * j + 1] = bits_at<2>(low, 6) | bits_at<4>(rest, j % 2 * 4) << 2;
    }
  } else if constexpr (kBits == 3) {
    for (int part = 0; part < 2; ++part) {
      uint32_t* of = q + 4 * part;
      of[0] = bits_at<3>(place.get(part), 0);
      of[1] = bits_at<3>(place.get(part), 3);
      of[2] = bits_at<3>(place.get(2), 3 * part);
      of[3] = bits_at<2>(place.get(part), 6) | bits_at<1>(place.get(2), 6 + part) << 2;
    }
  } else {
    for (int j = 0; j < 8; ++j) q[j] = bits_at<2>(place.get(j / 4), j % 4 * 2);
  }
}

// One row of one group in its strip.
template <class Block, WeightKind kKind>
struct RowOfGroup {
  static constexpr StripLayout kLayout{kKind};
  static constexpr int kBlocks = Block::kWeights / kBlock;  // of 32 weights in one of the file

  std::byte* group;
  int n_blocks, row;

  std::byte* word(int block, int i) const {
    return group + static_cast<size_t>(block * kLayout.n_words() + i) * 64 + row * 4;
  }
  std::byte* half(int block, int i) const {
    return group + kLayout.half_offset(n_blocks, block, i) + row * 2;
  }
  CodesPlace codes(int block) const {
    return {group + kLayout.codes_offset(n_blocks, block) + row * 4};
  }

  // Returns whether its weights are finite.
  bool pack(int i, const std::byte* source) const {
    for (int k = 0; k < kLayout.n_words(); ++k) {
      std::memcpy(word(i, k), source + Block::kWordsAt + 4 * k, 4);
    }
    bool finite = true;
    for (int k = 0; k < kLayout.n_halves(); ++k) {
      const std::byte* from = source + Block::kHalvesAt + 2 * k;
      std::memcpy(half(i, k), from, 2);
      if (k == 0 || kKind.has_min()) finite &= is_finite_half(from);
    }
    Block block;
    std::memcpy(&block, source, sizeof block);
    for (int b = 0; b < kBlocks; ++b) {
      uint32_t quads[8];
      for (int j = 0; j < 8; ++j) quads[j] = block.quad(8 * b + j);
      put_codes<kKind.bits>(codes(i * kBlocks + b), quads);
    }
    return finite;
  }

  void unpack(int i, float* out) const {
    std::byte bytes[sizeof(Block)]{};
    for (int k = 0; k < kLayout.n_words(); ++k) {
      std::memcpy(bytes + Block::kWordsAt + 4 * k, word(i, k), 4);
    }
    for (int k = 0; k < kLayout.n_halves(); ++k) {
      std::memcpy(bytes + Block::kHalvesAt + 2 * k, half(i, k), 2);
    }
    Block scales;
    std::memcpy(&scales, bytes, sizeof scales);
    for (int b = 0; b < kBlocks; ++b) {
      uint32_t quads[8];
      get_codes<kKind.bits>(codes(i * kBlocks + b), quads);
      for (int k = 0; k < kBlock; ++k) {
        const int part = (b * kBlock + k) / Block::kPartWeights;
        float minimum = 0.0f;
        if constexpr (kKind.has_min()) minimum = scales.minimum(part);
        *out++ = kKind.weight(quads[k / 4] >> k % 4 * 8 & 255, scales.scale(part), minimum);
      }
    }
  }
};

// Calls visit(row of the group, index of a block of the file in it, its index in the row).
template <class Block, WeightKind kKind, class Visit>
void for_each_block(std::byte* strip, int n_cols, int row, const Visit& visit) {
  using Row = RowOfGroup<Block, kKind>;
  const int n_blocks = n_cols / kBlock;
  for (int first = 0; first < n_blocks; first += kGroupBlocks) {
    const Row group{strip, std::min(kGroupBlocks, n_blocks - first), row};
    for (int i = 0; i < group.n_blocks / Row::kBlocks; ++i) {
      visit(group, i, first / Row::kBlocks + i);
    }
    strip += Row::kLayout.group_bytes(group.n_blocks);
  }
}

template <class Block, WeightKind kKind>
bool pack_row(const std::byte* source, int n_cols, std::byte* strip, int row) {
  bool finite = true;
  if constexpr (!kKind.is_float()) {
    for_each_block<Block, kKind>(strip, n_cols, row, [&](const auto& group, int i, int at) {
      finite &= group.pack(i, source + at * sizeof(Block));
    });
  } else {
    for (int k = 0; k < n_cols; ++k, source += sizeof(Block)) {
      std::memcpy(strip + (static_cast<size_t>(k) * kLanes + row) * sizeof(Block), source,
                  sizeof(Block));
      Block block;
      std::memcpy(&block, source, sizeof block);
      finite &= std::isfinite(block.to_float());
    }
  }
  return finite;
}

template <class Block, WeightKind kKind>
void unpack_row(std::byte* strip, int n_cols, int row, float* out) {
  if constexpr (!kKind.is_float()) {
    for_each_block<Block, kKind>(strip, n_cols, row, [&](const auto& group, int i, int at) {
      group.unpack(i, out + at * Block::kWeights);
    });
  } else {
    for (int k = 0; k < n_cols; ++k) {
      Block block;
      std::memcpy(&block, strip + (static_cast<size_t>(k) * kLanes + row) * sizeof(Block),
                  sizeof block);
      out[k] = block.to_float();
    }
  }
}

using PackRow = bool (*)(const std::byte* source, int n_cols, std::byte* strip, int row);
using UnpackRow = void (*)(std::byte* strip, int n_cols, int row, float* out);
constexpr struct {
  PackRow pack;
  UnpackRow unpack;
} kRows[] = {
// by TensorType
#define TENSOR_TYPE(Type, name, id, ftype, Block, ...) \
  {pack_row<Block, traits(TensorType::Type).kind>,     \
   unpack_row<Block, traits(TensorType::Type).kind>},
#include "quant/types.def"
#undef TENSOR_TYPE
};

}  // namespace

size_t PackedMatrix::strip_bytes() const { return StripLayout{kind()}.strip_bytes(n_blocks()); }

bool pack_strip(TensorType type, int n_cols, std::span<const std::byte> rows, std::byte* strip) {
  const size_t row_bytes = size_of_weights(type, n_cols);
  const int n_rows = static_cast<int>(rows.size() / row_bytes);
  bool finite = true;
  for (int row = 0; row < n_rows; ++row) {
    finite &= kRows[static_cast<int>(type)].pack(rows.data() + row * row_bytes, n_cols, strip, row);
  }
  return finite;
}

void unpack_row(const PackedMatrix& matrix, int row, float* out) {
  kRows[static_cast<int>(matrix.type)].unpack(const_cast<std::byte*>(matrix.strip(row / kLanes)),
                                              matrix.n_cols, row % kLanes, out);
}

}  // namespace starchat
