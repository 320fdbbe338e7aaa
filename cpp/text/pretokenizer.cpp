// A handwritten scanner for one regular expression: see pretokenizer.hpp.
#include "text/pretokenizer.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>

namespace starchat {
namespace {

// kDigit is Rust's char::is_numeric, which includes \p{N}. Every digit is a piece of its own.
enum Class : uint8_t { kOther, kLetter, kSpace, kDigit };

struct ClassChange {
  char32_t first;
  Class value;
};

constexpr ClassChange kChanges[] = {
#include "text/unicode_classes.inc"
};

constexpr Class search_class(char32_t code_point) {
  const auto* after = std::upper_bound(
      std::begin(kChanges), std::end(kChanges), code_point,
      [](char32_t value, const ClassChange& change) { return value < change.first; });
  return after[-1].value;  // the first entry is U+0000
}

constexpr auto kAscii = [] {
  std::array<Class, 128> table{};
  for (char32_t c = 0; c < 128; ++c) table[c] = search_class(c);
  return table;
}();

struct Character {
  Class value;
  size_t size_bytes;
};

// Strict UTF-8: overlong forms and values above U+10FFFF are invalid bytes, each of class kOther.
// Surrogates are of class kOther too, which has the same effect.
Character read_character(std::string_view text, size_t at) noexcept {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {kAscii[lead], 1};
  const size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() - at < size) return {kOther, 1};
  char32_t code_point = lead & (0x7F >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {kOther, 1};
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  const bool overlong = (size == 3 && code_point < 0x800) || (size == 4 && code_point < 0x10000);
  if (overlong || code_point > 0x10FFFF) return {kOther, 1};
  return {search_class(code_point), size};
}

// The end of the run of class `value` that begins at `at`; *last becomes the size in bytes of its
// last character.
size_t run_end(std::string_view text, size_t at, Class value, size_t* last = nullptr) noexcept {
  while (at < text.size()) {
    const Character next = read_character(text, at);
    if (next.value != value) break;
    at += next.size_bytes;
    if (last) *last = next.size_bytes;
  }
  return at;
}

size_t contraction_size(std::string_view text) noexcept {
  for (std::string_view suffix : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.starts_with(suffix)) return suffix.size();
  }
  return 0;
}

}  // namespace

std::string_view next_piece(std::string_view text) noexcept {
  if (const size_t size = contraction_size(text)) return text.substr(0, size);
  const Character first = read_character(text, 0);
  if (first.value == kDigit) return text.substr(0, first.size_bytes);
  if (first.value != kSpace) return text.substr(0, run_end(text, 0, first.value));
  if (text[0] == ' ' && text.size() > 1) {
    const Class second = read_character(text, 1).value;
    if (second == kLetter || second == kOther) return text.substr(0, run_end(text, 1, second));
  }
  // The last character of white space belongs to the word that follows, unless it is the only one.
  // Digits are split off before the pattern is applied, so for the pattern a digit ends the text.
  size_t last = 0;
  const size_t end = run_end(text, 0, kSpace, &last);
  const bool at_end = end == text.size() || read_character(text, end).value == kDigit;
  return text.substr(0, at_end || end == last ? end : end - last);
}

}  // namespace starchat
