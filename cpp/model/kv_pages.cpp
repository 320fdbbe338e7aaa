#include "model/kv_pages.hpp"

#include <algorithm>
#include <utility>

namespace starchat {

namespace {
constexpr size_t kSlabBytes = size_t{8} << 20;  // reserved at once: whole huge pages

size_t n_pages_of(int n_positions) {
  return static_cast<size_t>((n_positions + kPagePositions - 1) / kPagePositions);
}

}  // namespace

KvPool::KvPool(int n_ctx, size_t page_bytes, std::function<void(int n_pages)> reserve)
    : n_ctx_(n_ctx), page_bytes_(page_bytes), reserve_(std::move(reserve)) {}

PageId KvPool::allocate() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    const size_t n_old = n_holders_.size();
    const size_t n_new =
        std::clamp<size_t>(kSlabBytes / page_bytes_, 1, n_ctx_ / kPagePositions + 1);
    free_.reserve(n_old + n_new);  // release() must not throw
    n_holders_.reserve(n_old + n_new);
    reserve_(static_cast<int>(n_old + n_new));
    n_holders_.resize(n_old + n_new);
    for (size_t i = n_new; i-- > 0;) free_.push_back(static_cast<PageId>(n_old + i));
  }
  const PageId page = free_.back();
  free_.pop_back();
  n_holders_[static_cast<size_t>(page)] = 1;
  return page;
}

void KvPool::retain(PageId page) {
  const std::lock_guard lock(mutex_);
  ++n_holders_[static_cast<size_t>(page)];
}

void KvPool::release(PageId page) {
  const std::lock_guard lock(mutex_);
  if (--n_holders_[static_cast<size_t>(page)] == 0) free_.push_back(page);
}

KvPool::Numbers KvPool::n_pages() {
  const std::lock_guard lock(mutex_);
  return {n_holders_.size(), free_.size()};
}

KvSequence::KvSequence(KvSequence&& other) noexcept
    : pool_(other.pool_), pages_(std::exchange(other.pages_, {})) {}

KvSequence::KvSequence(KvPool& pool, int n_most) : pool_(&pool) {
  pages_.reserve(n_pages_of(n_most));
}

void KvSequence::reserve(int n_tokens) {
  const size_t n_pages = n_pages_of(n_tokens);
  while (pages_.size() < n_pages) {
    const PageId page = pool_->allocate();
    try {
      pages_.push_back(page);
    } catch (...) {
      pool_->release(page);
      throw;
    }
  }
}

void KvSequence::share(PageId page) {
  pages_.push_back(page);
  pool_->retain(page);
}

void KvSequence::clear() {
  for (const PageId page : pages_) pool_->release(page);
  pages_.clear();
}

}  // namespace starchat
