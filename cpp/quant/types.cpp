#include "quant/types.hpp"

#include <cstring>

namespace starchat {
namespace {

template <typename Block>
void dequantize_blocks(const std::byte* src, float* dst, size_t n) {
  for (size_t first = 0; first < n; first += Block::kWeights, src += sizeof(Block)) {
    Block block;
    std::memcpy(&block, src, sizeof block);
    for (int i = 0; i < Block::kWeights; ++i) dst[first + i] = block.weight(i);
  }
}

}  // namespace

void dequantize_row(TensorType type, const std::byte* src, float* dst, size_t n) {
  switch (type) {
#define TENSOR_TYPE(Type, name, id, ftype, Block, ...) \
  case TensorType::Type:                               \
    return dequantize_blocks<Block>(src, dst, n);
#include "quant/types.def"
#undef TENSOR_TYPE
  }
}

}  // namespace starchat
