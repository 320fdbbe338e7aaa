// Keeps values by their names, the most recently used ones, up to a sum of bytes.
#pragma once
#include <cstdint>
#include <iterator>
#include <list>
#include <new>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace starchat {

template <class Value>
class LatestBySize {
 public:
  struct Entry {
    std::string name;
    Value value;
    int64_t bytes;
  };
  using Entries = std::list<Entry>;

  explicit LatestBySize(int64_t most_bytes) : most_bytes_(most_bytes) {}

  Value* find(const std::string& name) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return &found->second->value;
  }

  // Keeps a value of so many bytes, unless there is one or it is too large, and returns what goes
  // for it: the caller may free that without a lock.
  Entries keep(std::string name, Value value, int64_t bytes) {
    bytes += std::ssize(name) + kOverhead;
    Entries dropped;
    if (bytes > most_bytes_ || by_name_.contains(name)) return dropped;
    entries_.push_front({std::move(name), std::move(value), bytes});
    try {
      by_name_.emplace(entries_.front().name, entries_.begin());
    } catch (const std::bad_alloc&) {  // not kept
      entries_.pop_front();
      return dropped;
    }
    for (bytes_ += bytes; bytes_ > most_bytes_;) drop(std::prev(entries_.end()), dropped);
    return dropped;
  }

  Entries remove(const std::string& name) {
    Entries dropped;
    if (const auto found = by_name_.find(name); found != by_name_.end())
      drop(found->second, dropped);
    return dropped;
  }

  int64_t size() const { return std::ssize(entries_); }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kOverhead = 1 << 10;  // of an entry, beside its name and value

  void drop(typename Entries::iterator entry, Entries& dropped) {
    bytes_ -= entry->bytes;
    by_name_.erase(entry->name);
    dropped.splice(dropped.begin(), entries_, entry);
  }

  const int64_t most_bytes_;
  int64_t bytes_ = 0;
  Entries entries_;  // most recently used first
  std::unordered_map<std::string_view, typename Entries::iterator> by_name_;
};

}  // namespace starchat
