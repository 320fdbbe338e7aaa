// Computed beginnings, for those that begin alike: a radix tree whose edges are pages of 32 token
// ids. Holds full pages only, which nobody writes any more; the least recently used go first.
// Results stay the same bits: a page depends on nothing but the ids up to its end.
#pragma once
#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>

#include "model/kv_pages.hpp"

namespace starchat {

class PrefixCache {
 public:
  // budget_bytes: of the pages held here, whoever else holds them too. 0: off.
  PrefixCache(KvPool& pool, size_t budget_bytes);
  ~PrefixCache() { clear(); }
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // Extends a sequence, whose pages are all full, by pages that hold the ids behind them. Returns
  // the positions that it has then: a multiple of 32, never more than ids.size().
  int extend(std::span<const int32_t> ids, KvSequence& sequence);

  // Keeps the full pages among the first n_cached positions of a sequence with these ids.
  void keep(std::span<const int32_t> ids, int n_cached, const KvSequence& sequence);

  bool clear();  // whether there was anything
  size_t n_pages() const { return by_use_.size(); }

 private:
  using PageTokens = std::array<int32_t, kPagePositions>;
  struct Node {
    Node* parent;
    PageTokens ids;
    PageId page;
    Node(Node* parent, const PageTokens& ids, PageId page) : parent(parent), ids(ids), page(page) {}
    std::map<PageTokens, std::unique_ptr<Node>> children;
    std::list<Node*>::iterator use;  // its place in by_use_
  };

  static PageTokens page_tokens(std::span<const int32_t> ids, size_t page);
  void touch(Node* node);
  void forget_oldest();

  KvPool& pool_;
  const size_t max_pages_;
  Node root_{nullptr, {}, {}};
  std::list<Node*> by_use_;  // the latest first; a node always stands before its children
};

}  // namespace starchat
