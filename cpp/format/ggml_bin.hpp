// Reads the header of a ggml `starcoder` .bin file: config, vocabulary, offsets of tensors. Refuses
// files that contradict themselves before any weight is read. Memory is bounded by the size of the
// file, whatever the header claims.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "format/model_file.hpp"

namespace starchat {

inline constexpr std::string_view kGgmlMagic = "lmgg";  // u32 0x67676d6c

// Matrices must all be of the type that the header's ftype names; norms, biases and model/wpe f32.
// Throws FileAccessError, UnsupportedFormatError, CorruptFileError.
ModelFile read_ggml_bin(InputFile file);

// A tensor of the architecture, by its name in these files.
struct ExpectedTensor {
  std::string name;
  std::vector<int32_t> ne;  // fastest first
  TensorType type;
  Role role;
  int32_t layer;
  bool is_found = false;
  bool is_optional() const { return role == Role::Output; }
};

std::vector<ExpectedTensor> expected_tensors(const DecoderConfig& config, TensorType weight_type);

}  // namespace starchat
