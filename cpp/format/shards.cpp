#include "format/shards.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

namespace starchat {
namespace {

constexpr int64_t kMaxShards = 999;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::string shard_suffix(int64_t number, int64_t n_shards) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "-%05lld-of-%05lld.gguf", static_cast<long long>(number),
                static_cast<long long>(n_shards));
  return text.data();
}

std::vector<std::string> shard_paths(const std::string& path) {
  const size_t n_suffix = shard_suffix(1, 1).size();
  if (path.size() < n_suffix) return {path};
  const std::string prefix = path.substr(0, path.size() - n_suffix);
  const std::string_view suffix = std::string_view(path).substr(prefix.size());
  const std::string_view total = suffix.substr(suffix.size() - 10, 5);
  int64_t n_shards = 0;
  std::from_chars(total.data(), total.data() + total.size(), n_shards);
  if (n_shards < 2 || n_shards > kMaxShards || suffix != shard_suffix(1, n_shards)) return {path};
  std::vector<std::string> paths;
  for (int64_t i = 1; i <= n_shards; ++i) paths.push_back(prefix + shard_suffix(i, n_shards));
  return paths;
}

bool is_piece(std::string_view path) {
  size_t end = std::string_view::npos;
  for (const std::string_view extension : {".gguf", ".bin"}) {
    if (const size_t at = path.rfind(extension); at != std::string_view::npos)
      end = std::min(end, at + extension.size());
  }
  if (end == std::string_view::npos || end == path.size()) return false;
  const std::string_view rest = path.substr(end);
  return rest.find('/') == std::string_view::npos &&
         (rest.find("split") != std::string_view::npos ||
          rest.find("part") != std::string_view::npos ||
          std::ranges::all_of(rest.substr(1), is_digit));
}

}  // namespace starchat
