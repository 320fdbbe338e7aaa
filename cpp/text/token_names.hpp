// Names of tokens that are cut out of a text before its rest is merged.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace starchat {

class TokenNames {
 public:
  struct Name {
    std::string_view bytes;  // not empty
    int32_t id;
  };

  TokenNames() = default;
  explicit TokenNames(std::vector<Name> names) : names_(std::move(names)) {  // each once
    std::ranges::sort(names_, {}, &Name::bytes);
    for (const Name& name : names_) is_start_[first_byte(name.bytes)] = true;
  }

  // The longest name that the text begins with; null: none.
  const Name* longest_at(std::string_view text) const {
    const Name* longest = nullptr;
    std::span<const Name> left = names_;  // those that begin with the first n bytes of the text
    for (size_t n = 0; !left.empty(); ++n) {
      if (left.front().bytes.size() == n) {
        longest = &left.front();
        left = left.subspan(1);
      }
      if (n == text.size()) break;
      const uint8_t byte = first_byte(text.substr(n));
      const auto first = std::partition_point(left.begin(), left.end(), [&](const Name& name) {
        return first_byte(name.bytes.substr(n)) < byte;
      });
      const auto last = std::partition_point(first, left.end(), [&](const Name& name) {
        return first_byte(name.bytes.substr(n)) == byte;
      });
      left = left.subspan(first - left.begin(), last - first);
    }
    return longest;
  }

  // The first position from `at` on where a name may begin; text.size(): none.
  size_t next_start(std::string_view text, size_t at) const {
    if (names_.empty()) return text.size();
    while (at < text.size() && !is_start_[static_cast<uint8_t>(text[at])]) ++at;
    return at;
  }

 private:
  static uint8_t first_byte(std::string_view bytes) { return static_cast<uint8_t>(bytes.front()); }

  std::vector<Name> names_;  // in the order of their bytes: a name is before those it begins
  std::array<bool, 256> is_start_{};
};

}  // namespace starchat
