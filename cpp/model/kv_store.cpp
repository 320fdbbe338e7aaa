#include "model/kv_store.hpp"

#include <algorithm>
#include <cstring>

namespace starchat {

namespace {
// One cache line between pages: page sizes are multiples of large powers of two, so without it the
// same place of many pages would share a few sets of the cache.
constexpr size_t kGapBytes = 64;
}  // namespace

KvStore::KvStore(KvShape shape)
    : shape_(shape),
      v_row_elements_((shape.head_dim + kLanes - 1) / kLanes * kLanes),
      head_elements_(static_cast<size_t>(kPagePositions) * (shape.head_dim + v_row_elements_)),
      page_elements_(head_elements_ * shape.n_layer * shape.n_kv_head) {}

void KvStore::reserve(int n_pages) {
  if (static_cast<size_t>(n_pages) <= pages_.size()) return;
  const size_t n_new = n_pages - pages_.size(), each = page_bytes() + kGapBytes;
  pages_.reserve(n_pages);
  arenas_.emplace_back(n_new * each);
  for (size_t i = 0; i < n_new; ++i) {
    pages_.push_back(reinterpret_cast<uint16_t*>(arenas_.back().data() + i * each));
  }
}

void KvStore::copy(PageId from, PageId to) const {
  std::copy_n(page(from), page_elements_, page(to));
}

void KvStore::read(PageId from, std::span<std::byte> out) const {
  std::memcpy(out.data(), page(from), page_bytes());
}

void KvStore::write(PageId to, std::span<const std::byte> bytes) const {
  std::memcpy(page(to), bytes.data(), page_bytes());
}

}  // namespace starchat
