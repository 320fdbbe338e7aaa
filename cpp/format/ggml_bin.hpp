// Reads the header of a ggml `starcoder` .bin file: hyper-parameters, vocabulary, tensors' places.
// Refuses everything else, and every file that contradicts itself, before weights are touched;
// what it allocates is bounded by the size of the file, whatever the header claims.
#pragma once
#include <string>

#include "format/model_file.hpp"

namespace starchat {

// Matrices must all be of the type that the header's ftype names; norms, biases and model/wpe f32.
// What files repeat is compared, which reads a part of the weights. Throws FileAccessError,
// UnsupportedFormatError, CorruptFileError.
ModelFile open_ggml(const std::string& path);

}  // namespace starchat
