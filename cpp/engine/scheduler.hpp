// Continuous batching: chooses the columns of each step. Every decoding sequence gets one column,
// and guesses while columns are free; the rest goes to slices of prompts, so a long prompt does not
// stall running replies. Prefixes of prompts are reused from the prefix cache.
// A sequence whose grammar is slow rests while others run, so that they keep their pace.
// No threads: the engine loop, or a test, calls step() and took().
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "engine/counters.hpp"
#include "engine/prefix_cache.hpp"
#include "engine/sequence.hpp"
#include "engine/step_budget.hpp"
#include "model/batch.hpp"

namespace starchat {

// The current exception; std::bad_alloc becomes OutOfMemoryError. Allocates nothing.
std::exception_ptr current_error() noexcept;

class Scheduler {
 public:
  // Sequences that are computed at once. A sequence whose stream is full does not count, so unread
  // streams do not block others.
  static constexpr int kMaxSequences = 64;

  // prefix_cache_bytes: the size limit of the prefix cache. Negative: as much as one sequence of
  // n_ctx tokens takes.
  explicit Scheduler(ForwardPass& model, int max_sequences = kMaxSequences,
                     int64_t prefix_cache_bytes = -1);

  void add(Sequences sequences) noexcept;
  // Drops cancelled sequences, admits waiting ones (first come, first served), computes one batch.
  // False: there was nothing to do, and there will be nothing before an add(), a cancellation or a
  // reader that makes room in its stream.
  bool step();
  // The time of the last step, for StepBudget, which limits the prompt columns of mixed steps, and
  // for sequences that rest because of their grammars.
  void took(double seconds);
  void fail_all(std::exception_ptr error) noexcept;
  SchedulerStats stats() const { return read(counters_); }  // from any thread

 private:
  // The consecutive columns of one sequence in a batch.
  struct Slice {
    Sequence* sequence;
    int n_columns;  // guesses included
    int n_guessed;
    int first_logits;  // index of its first row of logits, if it has any
    int first_state;   // index of its first hidden state, likewise
  };

  // Guesses may fill a step up to this many columns. A step of 16 columns takes about 3.3 times as
  // long as one of 1, because reading the weights dominates; wider steps are compute-bound.
  static constexpr int kFreeColumns = 16;

  // Grammar work of a step that takes longer is made up for: the sequence rests until the others
  // have computed for 10 times as long.
  static constexpr double kQuickSeconds = 1e-3, kShareOfGrammars = 0.1;

  void drop_cancelled() noexcept;
  void admit() noexcept;
  bool take_shared_prompts();
  void take_shared_prompt(Sequence& sequence);
  void share_prompt(const Slice& slice);
  void schedule();
  void reuse_prefix(Sequence& sequence);
  void reserve(Sequence& sequence, int n_tokens);
  void keep_prefix(const Sequence& sequence);
  void guess(Sequence& sequence, int limit);
  void place(Sequence& sequence, int n_columns, int max_guesses = 0);
  void compute();
  void take_logits(const Slice& slice);
  void take_evaluation(const Slice& slice);
  void take_states(const Slice& slice);
  void take_tokens(const Slice& slice);
  bool retire() noexcept;
  void publish() noexcept;

  ForwardPass& model_;
  const int max_sequences_;
  PrefixCache prefixes_;
  StepBudget budget_;
  double grammar_seconds_ = 0;  // of the last step, in slow grammars
  bool only_decodes_ = false;   // the last step had no column of a prompt
  Sequences waiting_, running_;

  // All with room for the largest step.
  Batch batch_;
  std::vector<Slice> slices_;          // of batch_, in its order
  std::vector<Sequence*> prefilling_;  // scratch memory of schedule()
  std::vector<Sequence*> leaders_;     // the prefilling ones that await no page of another
  std::unique_ptr<float[]> logits_;    // (max_columns, n_vocab), resident where it was used
  std::unique_ptr<float[]> states_;    // (max_columns, n_embd), likewise

  Counters<std::atomic<uint64_t>> counters_;
};

}  // namespace starchat
