// Continuous batching: chooses the columns of each step. Every decoding sequence gets one column,
// and guesses while columns are free; the rest goes to slices of prompts, so a long prompt does not
// stall running replies. Prefixes of prompts are reused from the prefix cache.
// A step computes one batch; then each sequence takes its turn, which samples its next tokens.
// A sequence whose grammar is slow is left out of steps, so that the others keep their pace.
// No threads: the engine loop, or a test, calls it.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/counters.hpp"
#include "engine/draft_model.hpp"
#include "engine/guess_policy.hpp"
#include "engine/places.hpp"
#include "engine/prefix_cache.hpp"
#include "engine/sequence.hpp"
#include "engine/step_budget.hpp"
#include "model/batch.hpp"

namespace starchat {

// A draft model, and which of its ids are the model's.
struct Draft {
  ForwardPass* model = nullptr;  // null: none
  IdMap ids = {};
};

class Scheduler {
 public:
  // Sequences that are computed at once. Those that nobody reads do not keep others out; nor do as
  // many whose grammars are slow.
  static constexpr int kMaxSequences = 64;

  // Bytes of the KV cache that sequences without a place may hold.
  static constexpr int64_t kUnreadBytes = int64_t{1} << 30;

  // Guesses may fill a step up to this many columns. A step of 16 columns takes about 3.3 times as
  // long as one of 1, because reading the weights dominates; wider steps are compute-bound.
  static constexpr int kFreeColumns = 16;

  // A turn that another thread was left with so long is given up.
  static constexpr std::chrono::duration<double> kMostAway{30};

  // prefix_cache_bytes: the size limit of the prefix cache. Negative: as much as one sequence of
  // n_ctx tokens takes. The draft model's cache may hold as many pages, which are smaller.
  explicit Scheduler(ForwardPass& model, int max_sequences = kMaxSequences,
                     int64_t prefix_cache_bytes = -1, int64_t unread_bytes = kUnreadBytes,
                     std::chrono::duration<double> most_away = kMostAway, Draft draft = {});

  void add(Sequences sequences) noexcept;

  // A step, in this order. Drops cancelled sequences, gives the places, computes one batch;
  // sequences without a constraint take their turns. False: there was nothing to do, and there will
  // be nothing before an add(), a cancellation, a reader that comes to its stream or makes room in
  // it, or the end of a turn that another thread was left with.
  bool begin_step();
  // The time of begin_step(), for StepBudget, which limits the prompt columns of mixed steps, and
  // for sequences that rest because of their grammars.
  void took(double seconds);
  // The next sequence whose turn it is; null: none. The caller calls its take_turn(rows,
  // most_guesses), then end_turn(); or leave_turn() while another thread, which sets turn_ended
  // when it has taken the turn, is at it.
  std::shared_ptr<Sequence> next_turn() noexcept;
  void end_turn() noexcept;
  void leave_turn() noexcept;
  bool has_left() const { return !away_.empty(); }
  // Whether there are sequences beside the one whose turn it is.
  bool has_others() const { return running_.size() + waiting_.size() > 1; }
  bool end_step() noexcept;  // as begin_step()

  bool step();  // all of it in this thread, but for took()

  // Of a prefix that comes from a file: makes room in the prefix cache, then adds whole pages of
  // ids. salt null: pinned. make_room() throws InvalidRequestError if the cache is too small.
  void make_room(std::span<const int32_t> ids);
  void add_prefix(const std::string* salt, std::span<const int32_t> ids, const KvSequence& pages);

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

  // Turns of constrained sequences that hold the others up for longer are made up for: slow
  // sequences rest until the others have computed for 10 times as long; then one of them may run.
  static constexpr std::chrono::milliseconds kQuick{1};
  static constexpr double kShareOfGrammars = 0.1;
  // While so many turns are left to other threads, sequences whose last turn was left to one wait.
  static constexpr size_t kMostAwayTurns = 2;

  void drop_cancelled() noexcept;
  bool take_shared_prompts();
  void take_shared_prompt(Sequence& sequence);
  void share_prompt(const Slice& slice);
  void schedule();
  void choose_guesses(int n_decoding, int n_most) noexcept;
  void draft(int n_most);
  void choose_parts() noexcept;
  void place_prompts(bool has_place, int n_columns);
  void reuse_prefix(Sequence& sequence);
  void count_cached(Sequence& sequence, int begin, int end) noexcept;
  void reserve(Sequence& sequence, int n_tokens);
  void keep_prefix(const Sequence& sequence);
  void take_back() noexcept;
  void place(Sequence& sequence, int n_columns, int max_guesses = 0);
  void compute();
  void tell_policy() noexcept;
  void take_logits(const Slice& slice);
  void take_evaluation(const Slice& slice);
  void take_states(const Slice& slice);
  void take_scores(const Slice& slice);
  void take_turn(Sequence& sequence, float* rows);
  void count_turn(Sequence& sequence) noexcept;
  void give_up(Sequence& sequence, const std::exception_ptr& error) noexcept;
  bool retire() noexcept;
  void publish() noexcept;

  ForwardPass& model_;
  const int max_sequences_;
  Places places_;
  PrefixCache prefixes_;
  std::unique_ptr<DraftModel> draft_;  // null: there is none
  GuessPolicy policy_;                 // used with a draft model
  StepBudget budget_;
  bool only_decodes_ = false;  // the last step had no column of a prompt
  double drafted_s_ = 0,
         computed_s_ = 0;  // for this step by the draft model; in all steps by the model
  Sequences waiting_, running_;

  // Turns. A sequence that another thread was left with is in away_, and only its stream and its
  // cache may be used.
  std::vector<std::shared_ptr<Sequence>> due_;  // constrained sequences with rows, in order
  size_t next_due_ = 0;
  std::shared_ptr<Sequence> turn_;  // between next_turn() and end_turn() or leave_turn()
  std::chrono::steady_clock::time_point turn_begin_;
  int most_guesses_ = 0;                   // of a sequence in the next step
  std::chrono::duration<double> rest_{0};  // time of others that slow sequences sit out
  Sequences away_;
  const std::chrono::duration<double> most_away_;

  // All with room for the largest step.
  Batch batch_;
  std::vector<Slice> slices_;          // of batch_, in its order
  std::vector<Sequence*> prefilling_;  // scratch memory of schedule()
  std::vector<Sequence*> leaders_;     // the prefilling ones that await no page of another
  std::vector<Sequence*> decoding_;    // scratch memory of draft(), as are the next two
  std::vector<GuessOption> options_;
  std::vector<DraftModel::Request> requests_;
  std::unique_ptr<float[]> logits_;  // (max_columns, n_vocab), resident where it was used
  std::unique_ptr<float[]> states_;  // (max_columns, n_embd), likewise

  Counters<std::atomic<uint64_t>> counters_;
};

}  // namespace starchat
