#include "quant/types.hpp"

#include <cstring>

namespace starchat {
namespace {

template <typename Block, WeightKind kKind>
void dequantize_block(const Block& block, float* dst) {
  if constexpr (kKind.is_float()) {
    *dst = block.to_float();
  } else {
    for (int i = 0; i < Block::kWeights; ++i) {
      const int code = block.quad(i / 4) >> i % 4 * 8 & 255, part = i / Block::kPartWeights;
      float minimum = 0.0f;
      if constexpr (kKind.has_min()) minimum = block.minimum(part);
      dst[i] = kKind.weight(code, block.scale(part), minimum);
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
