// Names of files that are parts of one model: PREFIX-00001-of-00003.gguf (shards, each with a
// header), and the pieces of one file that `cat` joins (model.gguf-split-a, model.gguf.part1of2).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace starchat {

// "-00001-of-00003.gguf"
std::string shard_suffix(int64_t number, int64_t n_shards);

// All shards if `path` has the name of the first one, else `path` alone. Looks at no file.
std::vector<std::string> shard_paths(const std::string& path);

bool is_piece(std::string_view path);
inline constexpr std::string_view kJoinPieces =
    "a piece of a file; join all its pieces: `cat PIECE1 PIECE2 > model.gguf`";

}  // namespace starchat
