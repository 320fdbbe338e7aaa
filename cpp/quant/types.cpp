#include "quant/types.hpp"

#include <array>
#include <cstring>

namespace starchat {
namespace {

struct TypeNumbers {
  const char* name;
  int32_t id, ftype;
};

constexpr std::array<TypeNumbers, 7> kTypes = {{
    // in the order of TensorType
    {"f32", 0, 0},
    {"f16", 1, 1},
    {"q4_0", 2, 2},
    {"q4_1", 3, 3},
    {"q5_0", 6, 8},
    {"q5_1", 7, 9},
    {"q8_0", 8, 7},
}};

std::optional<TensorType> find_type(int32_t TypeNumbers::* number, int32_t value) {
  for (size_t i = 0; i < kTypes.size(); ++i) {
    if (kTypes[i].*number == value) return static_cast<TensorType>(i);
  }
  return std::nullopt;
}

int low_bits(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

int fifth_bit(const uint8_t* qh, int i) { return (qh[i / 8] >> i % 8 & 1) << 4; }

float weight(const BlockQ4_0& b, int i) {
  return static_cast<float>(low_bits(b.qs, i) - 8) * f16_to_f32(b.d);
}

float weight(const BlockQ4_1& b, int i) {
  return static_cast<float>(low_bits(b.qs, i)) * f16_to_f32(b.d) + f16_to_f32(b.m);
}

float weight(const BlockQ5_0& b, int i) {
  return static_cast<float>((low_bits(b.qs, i) | fifth_bit(b.qh, i)) - 16) * f16_to_f32(b.d);
}

float weight(const BlockQ5_1& b, int i) {
  return static_cast<float>(low_bits(b.qs, i) | fifth_bit(b.qh, i)) * f16_to_f32(b.d) +
         f16_to_f32(b.m);
}

float weight(const BlockQ8_0& b, int i) { return static_cast<float>(b.qs[i]) * f16_to_f32(b.d); }

template <typename Block>
void dequantize_blocks(const std::byte* src, float* dst, size_t n) {
  for (size_t first = 0; first < n; first += kBlockWeights, src += sizeof(Block)) {
    Block block;
    std::memcpy(&block, src, sizeof block);
    for (int i = 0; i < kBlockWeights; ++i) dst[first + i] = weight(block, i);
  }
}

}  // namespace

const char* type_name(TensorType type) { return kTypes[static_cast<size_t>(type)].name; }

int32_t ggml_id(TensorType type) { return kTypes[static_cast<size_t>(type)].id; }

std::optional<TensorType> type_from_ggml_id(int32_t id) { return find_type(&TypeNumbers::id, id); }

std::optional<TensorType> type_from_ggml_ftype(int32_t ftype) {
  return find_type(&TypeNumbers::ftype, ftype);
}

void dequantize_row(TensorType type, const std::byte* src, float* dst, size_t n) {
  switch (type) {
    case TensorType::F32:
      std::memcpy(dst, src, n * sizeof(float));
      return;
    case TensorType::F16:
      for (size_t i = 0; i < n; ++i) {
        uint16_t half;
        std::memcpy(&half, src + i * sizeof half, sizeof half);
        dst[i] = f16_to_f32(half);
      }
      return;
    case TensorType::Q4_0:
      return dequantize_blocks<BlockQ4_0>(src, dst, n);
    case TensorType::Q4_1:
      return dequantize_blocks<BlockQ4_1>(src, dst, n);
    case TensorType::Q5_0:
      return dequantize_blocks<BlockQ5_0>(src, dst, n);
    case TensorType::Q5_1:
      return dequantize_blocks<BlockQ5_1>(src, dst, n);
    case TensorType::Q8_0:
      return dequantize_blocks<BlockQ8_0>(src, dst, n);
  }
}

}  // namespace starchat
