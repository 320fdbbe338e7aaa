#include "model/kv_cache.hpp"

#include <algorithm>
#include <utility>

namespace starchat {

namespace {
constexpr size_t kSlabBytes = size_t{8} << 20;  // whole huge pages: attention walks all of them
}

KvPool::KvPool(KvShape shape, int n_ctx)
    : shape_(shape),
      n_ctx_(n_ctx),
      v_row_elements_((shape.head_dim + kLanes - 1) / kLanes * kLanes),
      head_elements_(static_cast<size_t>(kPagePositions) * (shape.head_dim + v_row_elements_)),
      page_elements_(head_elements_ * shape.n_layer * shape.n_kv_head) {}

KvPool::Page KvPool::allocate() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    const size_t each = kHeaderBytes + page_bytes();
    const size_t n_pages = std::clamp<size_t>(kSlabBytes / each, 1, n_ctx_ / kPagePositions + 1);
    free_.reserve(n_pages_ + n_pages);  // release() must not throw
    arenas_.emplace_back(n_pages * each);
    n_pages_ += n_pages;
    for (size_t i = n_pages; i-- > 0;) {
      free_.push_back(reinterpret_cast<Page>(arenas_.back().data() + i * each + kHeaderBytes));
    }
  }
  const Page page = free_.back();
  free_.pop_back();
  n_holders(page) = 1;
  return page;
}

void KvPool::retain(Page page) {
  const std::lock_guard lock(mutex_);
  ++n_holders(page);
}

void KvPool::release(Page page) {
  const std::lock_guard lock(mutex_);
  if (--n_holders(page) == 0) free_.push_back(page);
}

KvSequence::KvSequence(KvSequence&& other) noexcept
    : pool_(other.pool_), pages_(std::exchange(other.pages_, {})) {}

void KvSequence::reserve(int n_tokens) {
  const size_t n_pages = static_cast<size_t>((n_tokens + kPagePositions - 1) / kPagePositions);
  while (pages_.size() < n_pages) {
    const KvPool::Page page = pool_->allocate();
    try {
      pages_.push_back(page);
    } catch (...) {
      pool_->release(page);
      throw;
    }
  }
}

void KvSequence::share(KvPool::Page page) {
  pages_.push_back(page);
  pool_->retain(page);
}

void KvSequence::clear() {
  for (const KvPool::Page page : pages_) pool_->release(page);
  pages_.clear();
}

}  // namespace starchat
