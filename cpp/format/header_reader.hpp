// Reads forward through the header parts of a model file, and says where one contradicts itself.
// Nothing is allocated before the bytes that justify it are known to be in the file.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iomanip>
#include <span>
#include <sstream>
#include <string>
#include <string_view>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "format/model_file.hpp"

namespace starchat {

inline constexpr const char* kDamaged = "; the file is damaged; download it again";

template <typename E, typename... Parts>
[[noreturn]] void fail(const std::string& path, const Parts&... parts) {
  std::ostringstream message;
  message << path << ": ";
  (message << ... << parts);
  throw E(message.str());
}

inline std::string printable(std::string_view name) {
  std::ostringstream out;
  out << '\'' << std::hex << std::setfill('0');
  for (const unsigned char byte : name) {
    if (byte >= ' ' && byte < 0x7f)
      out << byte;
    else
      out << "\\x" << std::setw(2) << int{byte};
  }
  out << '\'';
  return out.str();
}

template <typename Range>
std::string shape_text(const Range& ne) {  // fastest first, as the file has it
  std::string text = "[";
  for (const auto n : ne) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

// Reads forward through the header parts of a file with a small buffer.
class HeaderReader {
 public:
  explicit HeaderReader(const InputFile& file) : file_(file) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return file_.size_bytes() - offset_; }

  void need(uint64_t n, std::string_view what) const {
    if (n > remaining()) {
      fail<CorruptFileError>(file_.path(), "ends at byte ", format_number(file_.size_bytes()),
                             " inside ", what, ", which needs ", format_number(n),
                             " bytes from byte ", format_number(offset_),
                             "; the file is cut short; download it again");
    }
  }

  template <typename N = int32_t>
  N number(std::string_view what) {
    N value;
    need(sizeof value, what);
    copy({reinterpret_cast<std::byte*>(&value), sizeof value});
    return value;
  }

  std::string bytes(size_t n, std::string_view what) {
    need(n, what);
    std::string value(n, '\0');
    copy({reinterpret_cast<std::byte*>(value.data()), n});
    return value;
  }

  void skip(uint64_t n, std::string_view what) {
    need(n, what);
    offset_ += n;
  }

 private:
  void copy(std::span<std::byte> out) {
    while (!out.empty()) {
      if (offset_ < buffer_offset_ || offset_ >= buffer_offset_ + buffer_size_) {
        buffer_offset_ = offset_;
        buffer_size_ = static_cast<size_t>(std::min<uint64_t>(buffer_.size(), remaining()));
        file_.read(buffer_offset_, {buffer_.data(), buffer_size_});
      }
      const auto start = static_cast<size_t>(offset_ - buffer_offset_);
      const size_t n = std::min(out.size(), buffer_size_ - start);
      std::memcpy(out.data(), buffer_.data() + start, n);
      out = out.subspan(n);
      offset_ += n;
    }
  }

  const InputFile& file_;
  uint64_t offset_ = 0, buffer_offset_ = 0;
  size_t buffer_size_ = 0;
  std::array<std::byte, 1 << 14> buffer_;
};

}  // namespace starchat
