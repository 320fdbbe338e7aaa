#include "engine/places.hpp"

#include <algorithm>

namespace starchat {
namespace {

// Pages that the sequence holds or, if nobody reads it, will hold once its stream is full.
size_t most_pages(const Sequence& sequence) {
  const int n_most = std::min(sequence.max_ids, sequence.n_ids() + sequence.state.n_room);
  const auto n_pages = static_cast<size_t>((n_most + kPagePositions - 1) / kPagePositions);
  return std::max(n_pages, sequence.cache.pages().size());
}

}  // namespace

void Places::give(Sequences& running, Sequences& waiting) noexcept {
  ++step_;
  n_read_ = n_slow_ = 0;
  int n_awake = 0, n_slow_awake = 0;
  size_t n_pages = 0, n_later = 0;  // of sequences without a place: now, and once they are full
  for (auto next = running.begin(); next != running.end();) {
    const auto i = next++;
    Sequence& sequence = **i;
    if (sequence.is_paused) {
      waiting.splice(waiting.begin(), running, i);
      continue;
    }
    if (sequence.state.has_room()) ++(sequence.is_slow ? n_slow_awake : n_awake);
    if (!take_place(sequence)) {
      n_pages += sequence.cache.pages().size();
      n_later += most_pages(sequence);
    }
  }
  n_awake += std::max(0, n_slow_awake - n_places_);

  for (auto next = waiting.begin(); next != waiting.end() && n_read_ < n_places_;) {
    const auto i = next++;
    if (!(*i)->state.is_read) continue;
    (*i)->is_paused = false;
    take_place(**i);
    running.splice(running.end(), waiting, i);
    ++n_awake;
  }
  for (auto next = waiting.begin(); next != waiting.end() && n_awake < n_places_;) {
    const auto i = next++;
    if ((*i)->state.is_read || (*i)->is_paused || n_later + most_pages(**i) > most_pages_) continue;
    n_later += most_pages(**i);
    running.splice(running.end(), waiting, i);
    ++n_awake;
  }

  while (n_pages > most_pages_ && pause_one(running)) {
    n_pages = 0;
    for (const auto& sequence : running)
      if (!sequence->has_place) n_pages += sequence->cache.pages().size();
  }
}

bool Places::take_place(Sequence& sequence) noexcept {
  if (sequence.state.is_read) sequence.read_at = step_;
  int& n = sequence.is_slow && n_slow_ < n_places_ ? n_slow_ : n_read_;
  sequence.has_place = sequence.state.is_read && n < n_places_;
  n += sequence.has_place;
  return sequence.has_place;
}

// Of those that were never read, the newest: who reads one after the other comes to it last.
bool Places::pause_one(const Sequences& running) noexcept {
  Sequence* longest = nullptr;
  for (const auto& sequence : running) {
    if (sequence->has_place || sequence->is_evaluation() || sequence->cache.pages().empty())
      continue;
    if (!longest || sequence->read_at <= longest->read_at) longest = sequence.get();
  }
  if (longest) longest->pause();
  return longest;
}

}  // namespace starchat
