// Numbers with thousands separators, for messages: 1,234,567.
#pragma once
#include <concepts>
#include <string>

namespace starchat {

template <std::integral T>
std::string format_number(T n) {
  const std::string digits = std::to_string(n);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    const size_t n_left = digits.size() - i;
    if (i > 0 && n_left % 3 == 0 && digits[i - 1] != '-') text += ',';
    text += digits[i];
  }
  return text;
}

}  // namespace starchat
