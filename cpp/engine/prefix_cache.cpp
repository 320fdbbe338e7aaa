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

int PrefixCache::extend(const std::string& salt, std::span<const int32_t> ids,
                        KvSequence& sequence) {
  const size_t n_full = ids.size() / kPagePositions;
  size_t n_pages = 0;
  const auto take = [&](PageId page) {
    if (n_pages++ == sequence.pages().size()) sequence.share(page);
  };
  PinnedNode* pinned = &pinned_;
  while (n_pages < n_full) {
    const auto child = pinned->children.find(page_tokens(ids, n_pages));
    if (child == pinned->children.end()) break;
    pinned = child->second.get();
    take(pinned->page.pages().front());
  }
  if (const auto root = pinned->roots.find(salt); root != pinned->roots.end()) {
    Node* node = &root->second;
    while (n_pages < n_full) {
      const auto child = node->children.find(page_tokens(ids, n_pages));
      if (child == node->children.end()) break;
      node = child->second.get();
      take(node->page);
    }
    touch(node);
  }
  return static_cast<int>(sequence.pages().size()) * kPagePositions;
}

void PrefixCache::keep(const std::string& salt, std::span<const int32_t> ids, int n_cached,
                       const KvSequence& sequence) {
  const size_t n_full = static_cast<size_t>(n_cached) / kPagePositions;
  PinnedNode* pinned = &pinned_;
  size_t page = 0;
  for (; page < n_full; ++page) {
    const auto child = pinned->children.find(page_tokens(ids, page));
    if (child == pinned->children.end()) break;
    pinned = child->second.get();
  }
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
  const size_t n_full = ids.size() / kPagePositions;
  const PinnedNode* node = &pinned_;
  for (size_t page = 0; page < n_full; ++page) {
    const auto child = node->children.find(page_tokens(ids, page));
    if (child == node->children.end()) return n_full - page;
    node = child->second.get();
  }
  return 0;
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
