// Pages of the KV cache as handles: 32 positions of every layer each, so a sequence's memory grows
// page by page. Only the runs of layers know where keys and values are. Pages have reference
// counts: sequences with a common prefix share pages, which is safe because a full page is never
// written again.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "kernels/kernels.hpp"

namespace starchat {

class KvPool {
 public:
  // reserve(n) makes room for the pages with ids below n, page_bytes each, and throws
  // OutOfMemoryError. It runs in allocate().
  KvPool(int n_ctx, size_t page_bytes, std::function<void(int n_pages)> reserve);

  PageId allocate();  // held once; throws OutOfMemoryError
  void retain(PageId page);
  void release(PageId page);

  struct Numbers {
    size_t n_taken, n_spare;
  };
  Numbers n_pages();  // that memory was taken for, and of these, held by nothing

  size_t page_bytes() const { return page_bytes_; }
  int n_ctx() const { return n_ctx_; }

 private:
  const int n_ctx_;
  const size_t page_bytes_;
  const std::function<void(int n_pages)> reserve_;

  std::mutex mutex_;
  std::vector<int32_t> n_holders_;  // by id, of every page ever allocated
  std::vector<PageId> free_;
};

// The cached keys and values of one sequence: page i has positions 32·i to 32·i + 31.
class KvSequence {
 public:
  // n_most: the positions it may ever have. With room for their pages, share() cannot fail.
  explicit KvSequence(KvPool& pool, int n_most = 0);
  ~KvSequence() { clear(); }
  KvSequence(KvSequence&& other) noexcept;
  KvSequence& operator=(KvSequence&&) = delete;

  void reserve(int n_tokens);  // room for positions 0 .. n_tokens-1; throws OutOfMemoryError
  void share(PageId page);     // appends a full page that others hold too
  void clear();
  const std::vector<PageId>& pages() const { return pages_; }

 private:
  KvPool* pool_;
  std::vector<PageId> pages_;
};

}  // namespace starchat
