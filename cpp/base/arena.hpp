// Anonymous memory of an exact size, zero-filled and touched lazily, 2 MiB aligned with huge
// pages asked for when it is large.
#pragma once
#include <cstddef>

namespace starchat {

class Arena {
 public:
  Arena() = default;
  explicit Arena(size_t size_bytes);  // throws OutOfMemoryError
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
};

}  // namespace starchat
