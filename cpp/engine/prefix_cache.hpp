// Prefix cache: a radix tree over KV pages for each salt; each edge is 32 token ids. It holds only
// full pages, which are never written again, and drops the least recently used ones of all trees
// first. Pinned pages stay, and prompts of every salt find them. Results keep their bits, because
// a page depends only on the ids up to its end.
#pragma once
#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "model/kv_pages.hpp"

namespace starchat {

class PrefixCache {
 public:
  // budget_bytes: the size limit, which counts pages that sequences hold too. 0: no caching.
  PrefixCache(KvPool& pool, size_t budget_bytes);
  ~PrefixCache() { clear(); }
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // Appends cached pages with the next ids to a sequence, whose pages must all be full. Returns the
  // number of cached positions: a multiple of 32, at most ids.size(). Pages that were kept with
  // another salt are not found.
  int extend(const std::string& salt, std::span<const int32_t> ids, KvSequence& sequence);

  // Adds the full pages among the first n_cached positions of a sequence with these ids.
  void keep(const std::string& salt, std::span<const int32_t> ids, int n_cached,
            const KvSequence& sequence);

  // Adds the full pages of these ids for good. There must be room().
  void pin(std::span<const int32_t> ids, const KvSequence& sequence);

  // The pages of these ids that pin() would add; and the most that it may.
  size_t n_not_pinned(std::span<const int32_t> ids) const;
  size_t n_pinned() const { return n_pinned_; }
  size_t room() const { return max_pages_ - n_pinned_; }
  void drop_until_room_for(size_t n_pages);

  bool clear();  // but for pinned pages; returns whether any was dropped
  size_t n_pages() const { return n_pinned_ + by_use_.size(); }

 private:
  using PageTokens = std::array<int32_t, kPagePositions>;
  struct PinnedNode;
  struct Node {
    Node* parent = nullptr;             // null: a root, which has no page
    PinnedNode* above = nullptr;        // of a root
    const std::string* salt = nullptr;  // likewise
    PageTokens ids{};
    PageId page{};
    Node() = default;
    Node(Node* parent, const PageTokens& ids, PageId page) : parent(parent), ids(ids), page(page) {}
    std::map<PageTokens, std::unique_ptr<Node>> children;
    std::list<Node*>::iterator use;  // its place in by_use_
  };
  // Pinned pages follow pinned pages only. Behind each of them, every salt has a tree of its own.
  struct PinnedNode {
    explicit PinnedNode(KvPool& pool) : page(pool) {}
    KvSequence page;  // none: the root
    std::map<PageTokens, std::unique_ptr<PinnedNode>> children;
    std::map<std::string, Node> roots;  // by salt
  };

  static PageTokens page_tokens(std::span<const int32_t> ids, size_t page);
  // Goes down a tree, from the page `first` of ids on, as far as it has their full pages; shows
  // each node to `see`, and returns the last one.
  template <class Tree, class See>
  static Tree* follow(Tree* node, std::span<const int32_t> ids, size_t first, const See& see);
  void touch(Node* node);
  void evict_oldest();

  KvPool& pool_;
  const size_t max_pages_;
  PinnedNode pinned_;
  size_t n_pinned_ = 0;
  std::list<Node*> by_use_;  // most recently used first; a parent is before its children
};

}  // namespace starchat
