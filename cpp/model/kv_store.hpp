// Keys and values of some layers in memory, f16, by the id of their page.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/arena.hpp"
#include "kernels/kernels.hpp"

namespace starchat {

struct KvShape {
  int n_layer, n_kv_head, head_dim;
};

class KvStore {
 public:
  explicit KvStore(KvShape shape);

  void reserve(int n_pages);  // room for ids below n_pages; throws OutOfMemoryError
  void copy(PageId from, PageId to) const;
  void read(PageId from, std::span<std::byte> out) const;  // page_bytes() of it
  void write(PageId to, std::span<const std::byte> bytes) const;

  // A page: (n_layer, n_kv_head, {K, V}). K of one layer and head: strips (2, head_dim, 16
  // positions). V: rows (32, head_dim padded).
  uint16_t* page(PageId id) const { return pages_[static_cast<size_t>(id)]; }
  const uint16_t* const* page_table() const { return pages_.data(); }  // by id
  size_t page_bytes() const { return page_elements_ * sizeof(uint16_t); }
  size_t k_offset(int layer, int kv_head) const {
    return (static_cast<size_t>(layer) * shape_.n_kv_head + kv_head) * head_elements_;
  }
  size_t v_offset(int layer, int kv_head) const {
    return k_offset(layer, kv_head) + static_cast<size_t>(kPagePositions) * shape_.head_dim;
  }
  int v_row_elements() const { return v_row_elements_; }

 private:
  KvShape shape_;
  int v_row_elements_;
  size_t head_elements_, page_elements_;
  std::vector<Arena> arenas_;
  std::vector<uint16_t*> pages_;
};

}  // namespace starchat
