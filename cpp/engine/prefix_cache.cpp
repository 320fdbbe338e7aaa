#include "engine/prefix_cache.hpp"

#include <algorithm>

namespace starchat {

PrefixCache::PrefixCache(KvPool& pool, size_t budget_bytes)
    : pool_(pool), max_pages_(budget_bytes / pool.page_bytes()) {}

PrefixCache::PageTokens PrefixCache::page_tokens(std::span<const int32_t> ids, size_t page) {
  PageTokens result;
  std::ranges::copy(ids.subspan(page * kPagePositions, kPagePositions), result.begin());
  return result;
}

int PrefixCache::extend(const std::string& salt, std::span<const int32_t> ids,
                        KvSequence& sequence) {
  if (const auto root = roots_.find(salt); root != roots_.end()) {
    Node* node = &root->second;
    for (size_t n_pages = 0; n_pages < ids.size() / kPagePositions; ++n_pages) {
      const auto child = node->children.find(page_tokens(ids, n_pages));
      if (child == node->children.end()) break;
      node = child->second.get();
      if (n_pages == sequence.pages().size()) sequence.share(node->page);
    }
    touch(node);
  }
  return static_cast<int>(sequence.pages().size()) * kPagePositions;
}

void PrefixCache::keep(const std::string& salt, std::span<const int32_t> ids, int n_cached,
                       const KvSequence& sequence) {
  if (max_pages_ == 0 || n_cached < kPagePositions) return;
  const auto root = roots_.try_emplace(salt).first;
  root->second.salt = &root->first;
  Node* node = &root->second;
  for (int page = 0; page < n_cached / kPagePositions; ++page) {
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
  while (by_use_.size() > max_pages_) evict_oldest();
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
  if (parent->salt && parent->children.empty()) roots_.erase(roots_.find(*parent->salt));
}

bool PrefixCache::clear() {
  const bool had_any = !by_use_.empty();
  while (!by_use_.empty()) evict_oldest();
  return had_any;
}

}  // namespace starchat
