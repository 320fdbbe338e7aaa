// Anonymous memory of a given size: zero-filled, and resident only where it has been written. An
// arena of 4 MiB or more is aligned to 2 MiB and asks the kernel for huge pages.
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
