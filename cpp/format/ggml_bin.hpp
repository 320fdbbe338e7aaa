// Reads the header of a ggml `starcoder` .bin file: config, vocabulary, offsets of tensors. Refuses
// files that contradict themselves before any weight is read. Memory is bounded by the size of the
// file, whatever the header claims.
#pragma once
#include <string_view>

#include "format/model_file.hpp"

namespace starchat {

inline constexpr std::string_view kGgmlMagic = "lmgg";  // u32 0x67676d6c

// Matrices must all be of the type that the header's ftype names; norms, biases and model/wpe f32.
// Throws FileAccessError, UnsupportedFormatError, CorruptFileError.
ModelFile read_ggml_bin(InputFile file);

}  // namespace starchat
