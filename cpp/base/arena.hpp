// Memory of a given size, anonymous or of a memory file: zero-filled, and resident only where it
// has been written. An arena of 4 MiB or more is aligned to 2 MiB and asks the kernel for huge
// pages.
#pragma once
#include <cstddef>

namespace starchat {

constexpr size_t kHugePageBytes = size_t{2} << 20;

class Arena {
 public:
  enum class Access { kRead, kReadWrite };

  Arena() = default;
  explicit Arena(size_t size_bytes);  // throws OutOfMemoryError
  // The first bytes of a file, for all processes that map it. Throws OutOfMemoryError.
  Arena(size_t size_bytes, int file, Access access);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }

 private:
  void reserve(size_t size_bytes, int protection);

  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
};

}  // namespace starchat
