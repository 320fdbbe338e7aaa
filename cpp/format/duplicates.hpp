// Finds rows that a file stores more than once, and lists them once. ggml `starcoder` files repeat
// the key and value head of multi-query models for every query head; files of models with tied
// weights repeat the token embedding as the output matrix.
#pragma once
#include <cstdint>
#include <functional>

#include "format/model_file.hpp"

namespace starchat {

// Removes copies that are the same bytes in every layer. This compares, so it reads a part of the
// weights: `report` gets the bytes of copies found so far, at least once a layer, and may throw to
// abort. Errors: InputFile::read.
using ReportCopies = std::function<void(uint64_t copied_bytes)>;
void remove_duplicates(ModelFile& file, const ReportCopies& report = {});

// Removes what is likely to be copies: compares the beginning of each in three layers. For those
// who want an answer about a large file at once, and load nothing.
void remove_likely_duplicates(ModelFile& file);

}  // namespace starchat
