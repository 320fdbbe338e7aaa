// Opens a model file of any format that is known here: its first bytes choose the reader. Reads no
// weights.
#pragma once
#include <string>

#include "format/model_file.hpp"

namespace starchat {

// Throws FileAccessError, UnsupportedFormatError, CorruptFileError.
ModelFile open_model(const std::string& path);

}  // namespace starchat
