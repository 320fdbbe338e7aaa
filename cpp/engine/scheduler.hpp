// Chooses what each step computes: one column for every decoding sequence, and guesses behind it
// while columns are free, then chunks of the prompts that wait, so that a long prompt never holds
// up those who are being answered. Beginnings that were computed before are not computed again.
// No threads and no clock: the engine loop, or a test, calls step() and took().
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <vector>

#include "engine/prefix_cache.hpp"
#include "engine/sequence.hpp"
#include "engine/step_budget.hpp"
#include "model/batch.hpp"

namespace starchat {

// The error being handled, std::bad_alloc as OutOfMemoryError.
std::exception_ptr current_error();

struct SchedulerStats {
  uint64_t n_steps, n_tokens, n_columns;  // since the start
  uint64_t n_running, n_waiting, n_kv_pages, n_prefix_pages;
  uint64_t n_cached_tokens, n_guessed_tokens, n_accepted_tokens, n_forced_tokens;  // likewise
};

class Scheduler {
 public:
  // Sequences that are computed at once. Those whose reader is slow do not count, so that streams
  // which nobody reads never keep others out.
  static constexpr int kMaxSequences = 64;

  // prefix_cache_bytes: for beginnings that nobody is using. Negative: as much as one sequence of
  // the whole context takes.
  explicit Scheduler(ForwardPass& model, int max_sequences = kMaxSequences,
                     int64_t prefix_cache_bytes = -1);

  void add(std::unique_ptr<Sequence> sequence);
  // Drops what was cancelled, admits what waits (first come, first served), computes one batch.
  // False when there was nothing to do: then only add(), a cancellation or a reader change that.
  bool step();
  // How long the last step took: while others decode, prompts are cut so that no step takes long.
  void took(double seconds);
  void fail_all(std::exception_ptr error);
  SchedulerStats stats() const;  // from any thread

 private:
  struct Chunk {
    Sequence* sequence;
    int n_columns;  // guesses included
    int n_guessed;
    int first_logits;  // its first row of logits, if it has any
    int first_state;   // likewise
  };

  // Decoding reads every weight whatever the number of columns: so many take about three times as
  // long as one. More would only calculate.
  static constexpr int kFreeColumns = 16;

  void drop_cancelled();
  void admit();
  void schedule();
  void reuse_prefix(Sequence& sequence);
  void keep_prefix(const Sequence& sequence);
  void guess(Sequence& sequence, int limit);
  void place(Sequence& sequence, int n_columns, int max_guesses = 0);
  void compute();
  void take_logits(const Chunk& chunk);
  void take_evaluation(const Chunk& chunk);
  void take_states(const Chunk& chunk);
  void take_tokens(const Chunk& chunk);
  bool retire();
  void publish();

  ForwardPass& model_;
  const int max_sequences_;
  PrefixCache prefixes_;
  StepBudget budget_;
  bool only_decodes_ = false;  // the last step
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;

  Batch batch_;
  std::vector<Chunk> chunks_;          // of batch_, in its order
  std::vector<Sequence*> prefilling_;  // work space
  std::vector<Sequence*> leaders_;     // those of them that wait for no other's page
  std::unique_ptr<float[]> logits_;    // (max_columns, n_vocab), touched as far as needed
  std::unique_ptr<float[]> states_;    // (max_columns, n_embd), likewise

  struct Counters {
    std::atomic<uint64_t> n_steps, n_tokens, n_columns, n_running, n_waiting, n_kv_pages,
        n_prefix_pages, n_cached_tokens, n_guessed_tokens, n_accepted_tokens, n_forced_tokens;
  };
  Counters counters_{};
};

}  // namespace starchat
