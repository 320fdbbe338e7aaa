#include "base/arena.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/errors.hpp"

namespace starchat {

namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

Arena::Arena(size_t size_bytes) : size_bytes_(size_bytes) {
  if (size_bytes == 0) return;
  const bool large = size_bytes >= 2 * kHugePage;
  mapping_bytes_ = size_bytes + (large ? kHugePage : 0);
  void* mapping = mapping_bytes_ < size_bytes
                      ? MAP_FAILED
                      : mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    throw OutOfMemoryError("cannot allocate " + std::to_string(size_bytes >> 20) +
                           " MiB: free memory, or choose a smaller n_ctx or a smaller file");
  }
  mapping_ = mapping;
  auto address = reinterpret_cast<uintptr_t>(mapping);
  if (large) address = (address + kHugePage - 1) & ~(kHugePage - 1);
  data_ = reinterpret_cast<std::byte*>(address);
#ifdef MADV_HUGEPAGE
  // Whole huge pages only: a last one that is partly used would be resident as a whole.
  if (large) madvise(data_, size_bytes & ~(kHugePage - 1), MADV_HUGEPAGE);
#endif
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
