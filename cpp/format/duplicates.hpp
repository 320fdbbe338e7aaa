// Finds rows that a file stores more than once, and lists them once. ggml `starcoder` files repeat
// the key and value head of multi-query models for every query head; files of models with tied
// weights repeat the token embedding as the output matrix.
#pragma once
#include "format/model_file.hpp"

namespace starchat {

// Removes copies that are the same bytes in every layer. This compares, so it reads a part of the
// weights. Errors: InputFile::read.
void remove_duplicates(ModelFile& file);

}  // namespace starchat
