// Reads the header of a GGUF file of the architecture `starcoder`: any mix of the types in
// types.def, tied or separate output, token lists of every converter.
#pragma once
#include "format/model_file.hpp"

namespace starchat {

// Throws FileAccessError, UnsupportedFormatError, CorruptFileError.
ModelFile read_gguf(InputFile file);

}  // namespace starchat
