// The blocks of weights as files store them: one struct for each tensor type, with kWeights and
// weight(i), a slow and clear dequantizer that the kernels are tested against.
// In blocks of 4 and 5 bits, byte j of qs holds weight j in its low half and weight j + 16 in its
// high half; bit i of qh, little-endian, is the fifth bit of weight i.
#pragma once
#include <bit>
#include <cstdint>

#include "quant/half.hpp"

namespace starchat {

static_assert(std::endian::native == std::endian::little, "files and kernels are little-endian");

struct BlockF32 {
  static constexpr int kWeights = 1;
  float value;
  float weight(int) const { return value; }
};

struct BlockF16 {
  static constexpr int kWeights = 1;
  uint16_t value;
  float weight(int) const { return f16_to_f32(value); }
};

inline int low_bits(const uint8_t (&qs)[16], int i) {
  return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}
inline int fifth_bit(const uint8_t (&qh)[4], int i) { return (qh[i / 8] >> i % 8 & 1) << 4; }

struct BlockQ4_0 {
  static constexpr int kWeights = 32;
  uint16_t d;
  uint8_t qs[16];
  float weight(int i) const { return static_cast<float>(low_bits(qs, i) - 8) * f16_to_f32(d); }
};

struct BlockQ4_1 {
  static constexpr int kWeights = 32;
  uint16_t d, m;
  uint8_t qs[16];
  float weight(int i) const {
    return static_cast<float>(low_bits(qs, i)) * f16_to_f32(d) + f16_to_f32(m);
  }
};

struct BlockQ5_0 {
  static constexpr int kWeights = 32;
  uint16_t d;
  uint8_t qh[4], qs[16];
  float weight(int i) const {
    return static_cast<float>((low_bits(qs, i) | fifth_bit(qh, i)) - 16) * f16_to_f32(d);
  }
};

struct BlockQ5_1 {
  static constexpr int kWeights = 32;
  uint16_t d, m;
  uint8_t qh[4], qs[16];
  float weight(int i) const {
    return static_cast<float>(low_bits(qs, i) | fifth_bit(qh, i)) * f16_to_f32(d) + f16_to_f32(m);
  }
};

struct BlockQ8_0 {
  static constexpr int kWeights = 32;
  uint16_t d;
  int8_t qs[32];
  float weight(int i) const { return static_cast<float>(qs[i]) * f16_to_f32(d); }
};

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20);
static_assert(sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ8_0) == 34);

}  // namespace starchat
