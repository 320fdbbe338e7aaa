#include "base/arena.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/errors.hpp"

namespace starchat {

namespace {
[[noreturn]] void fail(size_t size_bytes) {
  throw OutOfMemoryError("cannot allocate " + std::to_string(size_bytes >> 20) +
                         " MiB: free memory, or choose a smaller n_ctx or a smaller file");
}
}  // namespace

Arena::Arena(size_t size_bytes) {
  reserve(size_bytes, PROT_READ | PROT_WRITE);
#ifdef MADV_HUGEPAGE
  // Whole huge pages only: a last one that is partly used would be resident as a whole.
  if (size_bytes >= 2 * kHugePageBytes)
    madvise(data_, size_bytes & ~(kHugePageBytes - 1), MADV_HUGEPAGE);
#endif
}

Arena::Arena(size_t size_bytes, int file, Access access) : Arena() {  // so failing frees
  reserve(size_bytes, PROT_NONE);
  const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  if (size_bytes > 0 &&
      mmap(data_, size_bytes, protection, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
    fail(size_bytes);
#ifdef MADV_HUGEPAGE
  madvise(data_, size_bytes, MADV_HUGEPAGE);
#endif
}

void Arena::reserve(size_t size_bytes, int protection) {
  size_bytes_ = size_bytes;
  if (size_bytes == 0) return;
  const bool large = size_bytes >= 2 * kHugePageBytes;
  mapping_bytes_ = size_bytes + (large ? kHugePageBytes : 0);
  void* mapping = mapping_bytes_ < size_bytes ? MAP_FAILED
                                              : mmap(nullptr, mapping_bytes_, protection,
                                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) fail(size_bytes);
  mapping_ = mapping;
  auto address = reinterpret_cast<uintptr_t>(mapping);
  if (large) address = (address + kHugePageBytes - 1) & ~(kHugePageBytes - 1);
  data_ = reinterpret_cast<std::byte*>(address);
}

Arena::~Arena() {
  if (mapping_ != nullptr) munmap(mapping_, mapping_bytes_);
}

Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_bytes_(std::exchange(other.mapping_bytes_, 0)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  return *this;
}

}  // namespace starchat
