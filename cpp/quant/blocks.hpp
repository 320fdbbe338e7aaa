// The blocks of weights as files store them, one struct for each tensor type: kWeights, and for
// quantized types their parts. quad(j): the codes of weights 4j to 4j + 3, one in each byte.
// scale(i), minimum(i): of the i-th part, kPartWeights weights; weight = value of code · scale
// (+ minimum). The bytes that say so are whole words from kWordsAt on and halves from kHalvesAt on.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

#include "quant/half.hpp"

namespace starchat {

static_assert(std::endian::native == std::endian::little, "files and kernels are little-endian");

struct BlockF32 {
  static constexpr int kWeights = 1;
  float value;
  float to_float() const { return value; }
};

struct BlockF16 {
  static constexpr int kWeights = 1;
  uint16_t value;
  float to_float() const { return f16_to_f32(value); }
};

struct BlockBF16 {
  static constexpr int kWeights = 1;
  uint16_t value;  // the upper half of a float
  float to_float() const { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }
};

// Of four codes, one in each byte of a word: n bits from bit `shift` on.
template <int n>
uint32_t bits_of(const uint8_t* bytes, int shift) {
  uint32_t word;
  std::memcpy(&word, bytes, 4);
  return word >> shift & 0x01010101u * ((1 << n) - 1);
}

// The four bits of a byte's half, each moved to a byte of its own.
inline uint32_t to_bytes(uint32_t bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

// Blocks of 32 weights. Byte j of qs holds weight j in its low half and weight j + 16 in its high
// half; bit i of qh, little-endian, is the fifth bit of weight i.
struct Block32 {
  static constexpr int kWeights = 32, kPartWeights = 32, kWordsAt = 2, kHalvesAt = 0;
};

inline uint32_t low_quad(const uint8_t (&qs)[16], int j) {
  return bits_of<4>(qs + j % 4 * 4, j / 4 * 4);
}
inline uint32_t fifth_bits(const uint8_t (&qh)[4], int j) {
  return to_bytes(qh[j / 2] >> j % 2 * 4) << 4;
}

struct BlockQ4_0 : Block32 {
  uint16_t d;
  uint8_t qs[16];
  uint32_t quad(int j) const { return low_quad(qs, j); }
  float scale(int) const { return f16_to_f32(d); }
};

struct BlockQ4_1 : Block32 {
  uint16_t d, m;
  uint8_t qs[16];
  uint32_t quad(int j) const { return low_quad(qs, j); }
  float scale(int) const { return f16_to_f32(d); }
  float minimum(int) const { return f16_to_f32(m); }
};

struct BlockQ5_0 : Block32 {
  uint16_t d;
  uint8_t qh[4], qs[16];
  uint32_t quad(int j) const { return low_quad(qs, j) | fifth_bits(qh, j); }
  float scale(int) const { return f16_to_f32(d); }
};

struct BlockQ5_1 : Block32 {
  uint16_t d, m;
  uint8_t qh[4], qs[16];
  uint32_t quad(int j) const { return low_quad(qs, j) | fifth_bits(qh, j); }
  float scale(int) const { return f16_to_f32(d); }
  float minimum(int) const { return f16_to_f32(m); }
};

struct BlockQ8_0 : Block32 {
  uint16_t d;
  uint8_t qs[32];  // signed
  uint32_t quad(int j) const { return bits_of<8>(qs + 4 * j, 0); }
  float scale(int) const { return f16_to_f32(d); }
};

struct BlockIQ4_NL : BlockQ4_0 {};

// Blocks of 256 weights: eight runs of 32. The scales of their parts have few bits, d multiplies
// them; dmin multiplies the minima, which are subtracted.
struct Block256 {
  static constexpr int kWeights = 256;
};

struct BlockQ2_K : Block256 {
  static constexpr int kPartWeights = 16, kWordsAt = 0, kHalvesAt = 80;
  uint8_t scales[16];  // low half: scale; high half: minimum
  uint8_t qs[64];      // bits 2r and 2r + 1 of 32 bytes: run r of four
  uint16_t d, dmin;
  uint32_t quad(int j) const { return bits_of<2>(qs + j / 32 * 32 + j % 8 * 4, j / 8 % 4 * 2); }
  float scale(int i) const { return f16_to_f32(d) * static_cast<float>(scales[i] & 15); }
  float minimum(int i) const { return -(f16_to_f32(dmin) * static_cast<float>(scales[i] >> 4)); }
};

struct BlockQ3_K : Block256 {
  static constexpr int kPartWeights = 16, kWordsAt = 96, kHalvesAt = 108;
  uint8_t hmask[32];   // bit r: the third bit of run r
  uint8_t qs[64];      // as in Q2_K: the lower two
  uint8_t scales[12];  // low halves of 8 bytes: 0 to 7, high halves: 8 to 15; then the upper 2 bits
  uint16_t d;
  uint32_t quad(int j) const {
    return bits_of<2>(qs + j / 32 * 32 + j % 8 * 4, j / 8 % 4 * 2) |
           bits_of<1>(hmask + j % 8 * 4, j / 8) << 2;
  }
  float scale(int i) const {
    const int low = scales[i % 8] >> i / 8 * 4 & 15, high = scales[8 + i % 4] >> i / 4 * 2 & 3;
    return f16_to_f32(d) * static_cast<float>((low | high << 4) - 32);
  }
};

// 6 bits for each of 8 scales and 8 minima. Bytes 0 to 3: scales 0 to 3, 4 to 7: minima 0 to 3.
// Bytes 8 to 11: low halves of the others, scales low and minima high; bits 6 and 7 of the first
// eight bytes are their upper two bits.
struct SixBitScales {
  uint8_t bytes[12];
  int scale(int i) const {
    return i < 4 ? bytes[i] & 63 : (bytes[i + 4] & 15) | (bytes[i - 4] >> 6) << 4;
  }
  int minimum(int i) const {
    return i < 4 ? bytes[i + 4] & 63 : bytes[i + 4] >> 4 | (bytes[i] >> 6) << 4;
  }
};

struct BlockQ4_K : Block256 {
  static constexpr int kPartWeights = 32, kWordsAt = 4, kHalvesAt = 0;
  uint16_t d, dmin;
  SixBitScales scales;
  uint8_t qs[128];  // halves of 32 bytes: two runs
  uint32_t quad(int j) const { return bits_of<4>(qs + j / 16 * 32 + j % 8 * 4, j / 8 % 2 * 4); }
  float scale(int i) const { return f16_to_f32(d) * static_cast<float>(scales.scale(i)); }
  float minimum(int i) const { return -(f16_to_f32(dmin) * static_cast<float>(scales.minimum(i))); }
};

struct BlockQ5_K : Block256 {
  static constexpr int kPartWeights = 32, kWordsAt = 4, kHalvesAt = 0;
  uint16_t d, dmin;
  SixBitScales scales;
  uint8_t qh[32];   // bit r: the fifth bit of run r
  uint8_t qs[128];  // as in Q4_K
  uint32_t quad(int j) const {
    return bits_of<4>(qs + j / 16 * 32 + j % 8 * 4, j / 8 % 2 * 4) |
           bits_of<1>(qh + j % 8 * 4, j / 8) << 4;
  }
  float scale(int i) const { return f16_to_f32(d) * static_cast<float>(scales.scale(i)); }
  float minimum(int i) const { return -(f16_to_f32(dmin) * static_cast<float>(scales.minimum(i))); }
};

struct BlockQ6_K : Block256 {
  static constexpr int kPartWeights = 16, kWordsAt = 192, kHalvesAt = 208;
  uint8_t ql[128];     // low halves of 64 bytes: runs 0 and 1 of four; high halves: 2 and 3
  uint8_t qh[64];      // bits 2r and 2r + 1 of 32 bytes: the upper two bits of run r of four
  uint8_t scales[16];  // signed
  uint16_t d;
  uint32_t quad(int j) const {
    const int run = j / 8 % 4;
    return bits_of<4>(ql + j / 32 * 64 + run % 2 * 32 + j % 8 * 4, run / 2 * 4) |
           bits_of<2>(qh + j / 32 * 32 + j % 8 * 4, run * 2) << 4;
  }
  float scale(int i) const {
    return f16_to_f32(d) * static_cast<float>(static_cast<int8_t>(scales[i]));
  }
};

struct BlockIQ4_XS : Block256 {
  static constexpr int kPartWeights = 32, kWordsAt = 4, kHalvesAt = 0;
  uint16_t d;
  uint16_t scales_h;    // the upper two bits of each scale
  uint8_t scales_l[4];  // their lower four
  uint8_t qs[128];      // each run as in Q4_0
  uint32_t quad(int j) const { return bits_of<4>(qs + j / 8 * 16 + j % 4 * 4, j / 4 % 2 * 4); }
  float scale(int i) const {
    const int low = scales_l[i / 2] >> i % 2 * 4 & 15, high = scales_h >> 2 * i & 3;
    return f16_to_f32(d) * static_cast<float>((low | high << 4) - 32);
  }
};

// The values of codes of 4 bits of the types that begin with IQ4.
inline constexpr int8_t kCodeValues[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20);
static_assert(sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockIQ4_NL) == 18);
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210 && sizeof(BlockIQ4_XS) == 136);

}  // namespace starchat
