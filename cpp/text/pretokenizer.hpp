// First step of Tokenizer::encode: splits text into pieces; merges never cross their borders. Every
// digit is a piece; between digits, GPT-2's pattern is applied:
// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ .
// Accepts any bytes: each byte of invalid UTF-8 is a sign (no letter, digit or white space).
#pragma once
#include <string_view>

namespace starchat {

// The first piece of `text`, which must not be empty. The pattern has no look-behind, so calling
// this again on the rest gives all pieces. Their concatenation is the text.
std::string_view next_piece(std::string_view text) noexcept;

}  // namespace starchat
