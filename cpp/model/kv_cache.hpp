// KV cache in pages of 32 positions, f16. A page holds every layer of its positions, so a
// sequence's memory grows page by page. Pages are counted: sequences that begin alike share theirs,
// which is safe because a page that is full is never written again.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/arena.hpp"
#include "kernels/kernels.hpp"

namespace starchat {

struct KvShape {
  int n_layer, n_kv_head, head_dim;
};

class KvPool {
 public:
  using Page = uint16_t*;  // (n_layer, n_kv_head, {K tiles, V rows}) of f16

  KvPool(KvShape shape, int n_ctx);

  Page allocate();  // held once; throws OutOfMemoryError
  void retain(Page page);
  void release(Page page);

  // K of one layer and head: tiles (2, head_dim, 16 positions). V: rows (32, head_dim_padded).
  size_t k_offset(int layer, int kv_head) const {
    return (static_cast<size_t>(layer) * shape_.n_kv_head + kv_head) * head_elements_;
  }
  size_t v_offset(int layer, int kv_head) const {
    return k_offset(layer, kv_head) + static_cast<size_t>(kPagePositions) * shape_.head_dim;
  }
  int v_row_elements() const { return v_row_elements_; }
  size_t page_bytes() const { return page_elements_ * sizeof(uint16_t); }
  int n_ctx() const { return n_ctx_; }

 private:
  KvShape shape_;
  int n_ctx_;
  int v_row_elements_;
  size_t head_elements_, page_elements_;

  static constexpr size_t kHeaderBytes = 64;  // in front of each page: how many hold it
  static uint64_t& n_holders(Page page) {
    return *reinterpret_cast<uint64_t*>(reinterpret_cast<std::byte*>(page) - kHeaderBytes);
  }

  std::mutex mutex_;
  std::vector<Arena> arenas_;  // slabs of pages, every one ever allocated
  size_t n_pages_ = 0;         // in them
  std::vector<Page> free_;
};

// The cached keys and values of one sequence: positions 0 .. n_tokens()-1.
class KvSequence {
 public:
  explicit KvSequence(KvPool& pool) : pool_(&pool) {}
  ~KvSequence() { clear(); }
  KvSequence(KvSequence&& other) noexcept;
  KvSequence& operator=(KvSequence&&) = delete;

  void reserve(int n_tokens);     // room for positions 0 .. n_tokens-1; throws OutOfMemoryError
  void share(KvPool::Page page);  // appends a full page that others hold too
  void clear();
  const std::vector<KvPool::Page>& pages() const { return pages_; }
  const KvPool& pool() const { return *pool_; }

 private:
  KvPool* pool_;
  std::vector<KvPool::Page> pages_;
};

}  // namespace starchat
