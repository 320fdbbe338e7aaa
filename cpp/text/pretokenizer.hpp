// Cuts text into the pieces that byte-pair merges never cross: every digit alone, then GPT-2's
// word pattern 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ .
// First step of Tokenizer::encode. Refuses nothing: a byte that is not valid UTF-8 counts as a
// sign (neither letter, digit nor white space), one by one.
#pragma once
#include <string_view>

namespace starchat {

// The first piece of `text`, which must not be empty. The pattern never looks back, so calling
// this on what remains yields all pieces; their concatenation is the text.
std::string_view next_piece(std::string_view text) noexcept;

}  // namespace starchat
