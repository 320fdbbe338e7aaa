#include "quant/types.hpp"

#include <cstring>

namespace starchat {
namespace {

float value_of_code(WeightKind kind, int code) {
  switch (kind.codes) {
    case Codes::Centred:
      return static_cast<float>(code - (1 << (kind.bits - 1)));
    case Codes::Signed:
      return static_cast<float>(static_cast<int8_t>(code));
    case Codes::Table:
      return static_cast<float>(kCodeValues[code]);
    default:
      return static_cast<float>(code);
  }
}

template <typename Block, WeightKind kKind>
void dequantize_block(const Block& block, float* dst) {
  if constexpr (kKind.is_float()) {
    *dst = block.to_float();
  } else {
    for (int i = 0; i < Block::kWeights; ++i) {
      const int code = block.quad(i / 4) >> i % 4 * 8 & 255, part = i / Block::kPartWeights;
      dst[i] = value_of_code(kKind, code) * block.scale(part);
      if constexpr (kKind.has_min()) dst[i] += block.minimum(part);
    }
  }
}

template <typename Block, WeightKind kKind>
void dequantize_blocks(const std::byte* src, float* dst, size_t n) {
  for (size_t first = 0; first < n; first += Block::kWeights, src += sizeof(Block)) {
    Block block;
    std::memcpy(&block, src, sizeof block);
    dequantize_block<Block, kKind>(block, dst + first);
  }
}

}  // namespace

void dequantize_row(TensorType type, const std::byte* src, float* dst, size_t n) {
  switch (type) {
#define TENSOR_TYPE(Type, name, id, ftype, Block, ...) \
  case TensorType::Type:                               \
    return dequantize_blocks<Block, traits(TensorType::Type).kind>(src, dst, n);
#include "quant/types.def"
#undef TENSOR_TYPE
  }
}

}  // namespace starchat
