#include "engine/prefix_cache.hpp"

#include <algorithm>

namespace starchat {

PrefixCache::PrefixCache(KvPool& pool, size_t budget_bytes)
    : pool_(pool), max_pages_(budget_bytes / pool.page_bytes()), pinned_(pool) {}

PrefixCache::PageTokens PrefixCache::page_tokens(std::span<const int32_t> ids, size_t page) {
  PageTokens result;
  std::ranges::copy(ids.subspan(page * kPagePositions, kPagePositions), result.begin());
  return result;
}

template <class Tree, class See>
Tree* PrefixCache::follow(Tree* node, std::span<const int32_t> ids, size_t first, const See& see) {
  for (size_t page = first; page < ids.size() / kPagePositions; ++page) {
    const auto child = node->children.find(page_tokens(ids, page));
    if (child == node->children.end()) break;
    node = child->second.get();
    see(*node);
  }
  return node;
}

int PrefixCache::extend(const std::string& salt, std::span<const int32_t> ids,
                        KvSequence& sequence) {
  size_t n_pages = 0;
  const auto take = [&](PageId page) {
    if (n_pages++ == sequence.pages().size()) sequence.share(page);
  };
  PinnedNode* const pinned =
      follow(&pinned_, ids, 0, [&](const PinnedNode& node) { take(node.page.pages().front()); });
  if (const auto root = pinned->roots.find(salt); root != pinned->roots.end())
    touch(follow(&root->second, ids, n_pages, [&](const Node& node) { take(node.page); }));
  return static_cast<int>(sequence.pages().size()) * kPagePositions;
}

void PrefixCache::keep(const std::string& salt, std::span<const int32_t> ids, int n_cached,
                       const KvSequence& sequence) {
  const size_t n_full = static_cast<size_t>(n_cached) / kPagePositions;
  size_t page = 0;
  PinnedNode* const pinned =
      follow(&pinned_, ids.first(n_cached), 0, [&](const PinnedNode&) { ++page; });
  if (room() == 0 || page == n_full) return;
  const auto root = pinned->roots.try_emplace(salt).first;
  root->second.above = pinned;
  root->second.salt = &root->first;
  Node* node = &root->second;
  for (; page < n_full; ++page) {
    const PageTokens key = page_tokens(ids, page);
    auto child = node->children.find(key);
    if (child == node->children.end()) {
      auto fresh = std::make_unique<Node>(node, key, sequence.pages()[page]);
      std::list<Node*> use{fresh.get()};
      fresh->use = use.begin();
      child = node->children.emplace(key, std::move(fresh)).first;
      by_use_.splice(by_use_.end(), use);  // from here on nothing can fail
      pool_.retain(child->second->page);
    }
    node = child->second.get();
  }
  touch(node);
  drop_until_room_for(0);
}

// Trees of salts that begin with the same pages are out of reach then, and the first to be dropped.
void PrefixCache::pin(std::span<const int32_t> ids, const KvSequence& sequence) {
  PinnedNode* node = &pinned_;
  for (size_t page = 0; page < ids.size() / kPagePositions; ++page) {
    const PageTokens key = page_tokens(ids, page);
    auto child = node->children.find(key);
    if (child == node->children.end()) {
      auto fresh = std::make_unique<PinnedNode>(pool_);
      fresh->page.share(sequence.pages()[page]);
      child = node->children.emplace(key, std::move(fresh)).first;
      ++n_pinned_;
    }
    node = child->second.get();
  }
  drop_until_room_for(0);
}

size_t PrefixCache::n_not_pinned(std::span<const int32_t> ids) const {
  size_t n_found = 0;
  follow(&pinned_, ids, 0, [&](const PinnedNode&) { ++n_found; });
  return ids.size() / kPagePositions - n_found;
}

void PrefixCache::drop_until_room_for(size_t n_pages) {
  while (!by_use_.empty() && by_use_.size() + n_pages > room()) evict_oldest();
}

// Moves a node, then each of its ancestors, to the front, so a parent is before its children.
void PrefixCache::touch(Node* node) {
  for (; node->parent; node = node->parent) {
    by_use_.splice(by_use_.begin(), by_use_, node->use);
  }
}

void PrefixCache::evict_oldest() {
  Node* node = by_use_.back();  // has no children: they would be behind it
  Node* parent = node->parent;
  by_use_.pop_back();
  pool_.release(node->page);
  parent->children.erase(PageTokens(node->ids));
  if (!parent->above || !parent->children.empty()) return;
  auto& roots = parent->above->roots;
  roots.erase(roots.find(*parent->salt));
}

bool PrefixCache::clear() {
  const bool had_any = !by_use_.empty();
  while (!by_use_.empty()) evict_oldest();
  return had_any;
}

}  // namespace starchat
