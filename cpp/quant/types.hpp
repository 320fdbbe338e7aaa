// The tensor types of StarChat files: their numbers, their block layouts, half precision, and a
// slow, clear dequantizer, which is what the kernels are tested against.
// A block holds 32 weights. Byte j of qs holds weight j low and weight j+16 high.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace starchat {

enum class TensorType : uint8_t { F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 };

inline constexpr int kBlockWeights = 32;

struct BlockQ4_0 {  // (q - 8)·d
  uint16_t d;
  uint8_t qs[16];
};
struct BlockQ4_1 {  // q·d + m
  uint16_t d, m;
  uint8_t qs[16];
};
struct BlockQ5_0 {  // (q - 16)·d; bit i of qh, little-endian, is the fifth bit of weight i
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct BlockQ5_1 {  // q·d + m
  uint16_t d, m;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct BlockQ8_0 {  // q·d
  uint16_t d;
  int8_t qs[32];
};
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20);
static_assert(sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ8_0) == 34);
static_assert(std::endian::native == std::endian::little, "files and kernels are little-endian");

// Bytes of 32 weights.
constexpr size_t block_bytes(TensorType type) {
  switch (type) {
    case TensorType::F32:
      return 4 * kBlockWeights;
    case TensorType::F16:
      return 2 * kBlockWeights;
    case TensorType::Q4_0:
      return sizeof(BlockQ4_0);
    case TensorType::Q4_1:
      return sizeof(BlockQ4_1);
    case TensorType::Q5_0:
      return sizeof(BlockQ5_0);
    case TensorType::Q5_1:
      return sizeof(BlockQ5_1);
    case TensorType::Q8_0:
      return sizeof(BlockQ8_0);
  }
  return 0;
}

// Bytes of n weights; n is a multiple of 32, except for F32 and F16.
constexpr uint64_t size_of_weights(TensorType type, uint64_t n) {
  if (type == TensorType::F32) return 4 * n;
  if (type == TensorType::F16) return 2 * n;
  return n / kBlockWeights * block_bytes(type);
}

constexpr bool is_quantized(TensorType type) { return type > TensorType::F16; }

const char* type_name(TensorType type);                         // "q4_0"
int32_t ggml_id(TensorType type);                               // as tensors name it
std::optional<TensorType> type_from_ggml_id(int32_t id);        // nullopt: not one of ours
std::optional<TensorType> type_from_ggml_ftype(int32_t ftype);  // without the version (% 1000)

// Exact.
inline float f16_to_f32(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  if (magnitude < 0x0400) {  // zero and subnormals: a multiple of 2^-24
    return std::bit_cast<float>(std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f) |
                                sign);
  }
  const uint32_t bias = magnitude >= 0x7c00 ? (255 - 31) << 23 : (127 - 15) << 23;
  return std::bit_cast<float>(((magnitude << 13) + bias) | sign);
}

// Rounds to nearest, ties to even; too large becomes infinity; NaN becomes a quiet NaN.
inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= 0x47800000) {  // 2^16 and above
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  } else {  // a carry out of the mantissa rightly raises the exponent
    half = (magnitude - 0x38000000 + 0x0fff + (magnitude >> 13 & 1)) >> 13;
  }
  return static_cast<uint16_t>(half | sign);
}

// src: size_of_weights(type, n) bytes, at any alignment; dst: n floats.
void dequantize_row(TensorType type, const std::byte* src, float* dst, size_t n);

}  // namespace starchat
