// Tensor types: types.def made into an enum and a table of what is known about each type.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "quant/blocks.hpp"

namespace starchat {

// Activations and rows of weights are multiplied 32 values at a time: every row of a matrix is a
// multiple of it, whatever the block size of its type.
inline constexpr int kBlock = 32;

enum class TensorType : uint8_t {
#define TENSOR_TYPE(Type, ...) Type,
#include "quant/types.def"
#undef TENSOR_TYPE
};

// What the bits of a weight mean: its code, or a float.
enum class Codes : uint8_t {
  Float,
  UpperHalf,    // of a float
  Centred,      // (code - 2^(bits-1))·d
  FromMinimum,  // code·d + m
  Signed,       // code·d
  Table,        // kCodeValues[code]·d
};

// How blocks store the scales d and the minima m of their parts: blocks.hpp.
enum class Scales : uint8_t { None, Half, FourBits, SixBits, SixBits16, SixBitsSplit, EightBits };

// How kernels multiply weights. Types of one kind share their packed layout and their kernels.
struct WeightKind {
  int bits;  // of a weight
  Codes codes;
  Scales scales;
  constexpr bool is_float() const { return scales == Scales::None; }
  constexpr bool has_min() const { return codes == Codes::FromMinimum; }
  // Of a block of 32: parts with a scale of their own.
  constexpr int n_parts() const {
    return scales == Scales::FourBits || scales == Scales::SixBits16 || scales == Scales::EightBits
               ? 2
               : 1;
  }
  // The weight that a code stands for.
  float weight(int code, float scale, float minimum) const {
    switch (codes) {
      case Codes::Centred:
        return static_cast<float>(code - (1 << (bits - 1))) * scale;
      case Codes::Signed:
        return static_cast<float>(static_cast<int8_t>(code)) * scale;
      case Codes::Table:
        return static_cast<float>(kCodeValues[code]) * scale;
      default:
        return static_cast<float>(code) * scale + minimum;
    }
  }
};

struct TypeTraits {
  TensorType type;
  const char* name;        // "q4_0"
  int32_t ggml_id, ftype;  // of a tensor; of a ggml file, -1: none
  int block_weights, block_bytes;
  int halves_at;  // in a block: the offset of d, and of m or dmin after it; floats have none
  WeightKind kind;
  constexpr int n_halves() const { return kind.is_float() ? 0 : kind.has_min() ? 2 : 1; }
};

template <class Block>
constexpr int halves_at() {
  if constexpr (requires { Block::kHalvesAt; }) return Block::kHalvesAt;
  return 0;
}

inline constexpr TypeTraits kTensorTypes[] = {
#define TENSOR_TYPE(Type, name, id, ftype, Block, bits, codes, scales) \
  {TensorType::Type,                                                   \
   name,                                                               \
   id,                                                                 \
   ftype,                                                              \
   Block::kWeights,                                                    \
   sizeof(Block),                                                      \
   halves_at<Block>(),                                                 \
   {bits, Codes::codes, Scales::scales}},
#include "quant/types.def"
#undef TENSOR_TYPE
};

constexpr const TypeTraits& traits(TensorType type) {
  return kTensorTypes[static_cast<size_t>(type)];
}

constexpr bool is_quantized(TensorType type) { return !traits(type).kind.is_float(); }

// The type whose name, ggml_id or ftype is this: find_type(&TypeTraits::ggml_id, 2).
template <typename Field, typename Value>
constexpr std::optional<TensorType> find_type(Field TypeTraits::* field, const Value& value) {
  for (const TypeTraits& type : kTensorTypes) {
    if (value == type.*field) return type.type;
  }
  return std::nullopt;
}

// Bytes of n weights, a multiple of the type's block_weights.
constexpr uint64_t size_of_weights(TensorType type, uint64_t n) {
  return n / traits(type).block_weights * traits(type).block_bytes;
}

// src: size_of_weights(type, n) bytes, at any alignment; dst: n floats.
void dequantize_row(TensorType type, const std::byte* src, float* dst, size_t n);

}  // namespace starchat
