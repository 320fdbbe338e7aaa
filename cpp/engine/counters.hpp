// The scheduler's counters: the only place of their names and meanings. The scheduler counts in
// atomics, and readers get plain numbers; Python gets a dict of the same names.
#pragma once
#include <atomic>
#include <cstdint>

// X(name, meaning)
#define STARCHAT_COUNTERS(X)                                               \
  X(steps, "batches computed since the start")                             \
  X(tokens, "tokens of replies since the start")                           \
  X(columns, "positions computed since the start")                         \
  X(running, "sequences being computed now")                               \
  X(waiting, "sequences waiting for a place now")                          \
  X(kv_pages_used, "pages of the KV cache that running sequences hold")    \
  X(prefix_pages, "pages that the prefix cache holds")                     \
  X(kv_pages, "pages that memory was taken for")                           \
  X(kv_pages_spare, "of these, held by nothing now")                       \
  X(cached_tokens, "prompt tokens that were computed before")              \
  X(guessed_tokens, "tokens guessed ahead, by look-up or a draft model")   \
  X(accepted_tokens, "guessed tokens that were right")                     \
  X(drafted_tokens, "of the guessed ones, those of the draft model")       \
  X(accepted_drafts, "of these, right")                                    \
  X(draft_columns, "positions that the draft model computed")              \
  X(draft_pages, "pages that memory was taken for, of the draft model")    \
  X(draft_pages_spare, "of these, held by nothing now")                    \
  X(draft_prefix_pages, "pages that the draft's prefix cache holds")       \
  X(forced_tokens, "tokens that a constraint left no choice for")          \
  X(slow_turns, "turns of slow constraints that went on beside the steps") \
  X(abandoned, "replies given up because a constraint's call did not return")

namespace starchat {

template <class Number>
struct Counters {
#define FIELD(name, meaning) Number n_##name{};
  STARCHAT_COUNTERS(FIELD)
#undef FIELD
};

using SchedulerStats = Counters<uint64_t>;

inline SchedulerStats read(const Counters<std::atomic<uint64_t>>& counters) {
  SchedulerStats stats;
#define READ(name, meaning) stats.n_##name = counters.n_##name;
  STARCHAT_COUNTERS(READ)
#undef READ
  return stats;
}

}  // namespace starchat
