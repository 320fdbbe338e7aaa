// One request in the scheduler: its token ids, its sampler, its KV cache, and the stream for the
// result. An evaluation generates no tokens: its result is the logits of every id, an embedding, or
// the log probabilities of its own ids.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/drafter.hpp"
#include "engine/embedding.hpp"
#include "engine/guess_policy.hpp"
#include "engine/shared_prompt.hpp"
#include "engine/token_stream.hpp"
#include "model/batch.hpp"
#include "sampling/sampler.hpp"

namespace starchat {

// The lead, ids with which the reply begins, and the constraint on what follows.
struct Guidance {
  std::unique_ptr<Constraint> constraint;  // null: no constraint, and no lead
  std::vector<int64_t> lead;
  std::unique_ptr<Constraint> otherwise;  // or null; see Sampler::constrain
};

class Sequence;

// What a turn did, in tokens.
struct TurnCounts {
  int n_tokens = 0;  // stop ids included
  int n_forced = 0, n_guessed = 0, n_accepted = 0;
  GuessSource source = GuessSource::kNone;  // of the guesses
  int n_right_ids = 0;                      // ids before, and right guesses
};

// What the draft model has of a sequence.
struct Drafting {
  std::unique_ptr<KvSequence> cache;  // null: nothing
  int n_cached = 0;                   // positions in it; those behind wrong guesses do not count
  bool has_failed = false;            // it guesses no more for this sequence
  void clear() noexcept {
    cache.reset();
    n_cached = 0;
  }
};

// Sequences move from list to list by splicing, which allocates nothing.
using Sequences = std::list<std::shared_ptr<Sequence>>;

class Sequence : public std::enable_shared_from_this<Sequence> {
 public:
  // All throw InvalidRequestError or ContextLengthError if the model cannot serve the request.
  static std::shared_ptr<Sequence> generation(ForwardPass& model, std::span<const int64_t> prompt,
                                              SamplingParams params,
                                              std::shared_ptr<TokenStream> stream,
                                              Guidance guidance = {});
  // One for each stream, with the seeds params.seed, params.seed + 1 …; the prompt is computed
  // once.
  static Sequences replies(ForwardPass& model, std::span<const int64_t> prompt,
                           SamplingParams params,
                           std::span<const std::shared_ptr<TokenStream>> streams,
                           std::vector<Guidance> guidances, const std::string& cache_salt = {});
  static void check_evaluation(const ForwardPass& model, std::span<const int64_t> prompt,
                               int64_t first = 0);
  // logits: of position `first` and those behind it, (prompt.size() - first, n_vocab), filled step
  // by step. What is before comes from the prefix cache, if it is there.
  static std::shared_ptr<Sequence> evaluation(ForwardPass& model, std::span<const int64_t> prompt,
                                              int64_t first, std::shared_ptr<float[]> logits,
                                              std::shared_ptr<TokenStream> stream);
  static std::shared_ptr<Sequence> embedding(ForwardPass& model, std::span<const int64_t> prompt,
                                             std::shared_ptr<Embedding> embedding,
                                             std::shared_ptr<TokenStream> stream);
  // The stream gets each id but the first, with its log probability and those of the n_best.
  static std::shared_ptr<Sequence> scoring(ForwardPass& model, std::span<const int64_t> prompt,
                                           int64_t n_best, std::shared_ptr<TokenStream> stream,
                                           const std::string& cache_salt = {});

  ~Sequence();  // ends the stream, if nothing else has

  int n_ids() const { return static_cast<int>(ids.size()); }
  int n_pending() const { return n_ids() - n_cached; }  // columns still to be computed
  bool is_evaluation() const { return logits || pooled || is_scored; }
  // The ids at the beginning of which no result is needed but their keys and values.
  int n_cacheable() const { return is_evaluation() ? first_logits : n_prompt - 1; }
  bool leaves_prefix() const { return !is_evaluation() || is_scored || first_logits > 0; }
  bool wants_logits(int position) const;
  bool is_decoding() const { return n_cached >= n_prompt && n_pending() <= 1; }  // 1 column a step

  // Samples the token after the last id from the first of `rows`, (1 + guesses.size(), n_vocab).
  // While it equals the guess, samples the token after that guess from the next row. Then guesses
  // what may follow, at most most_guesses ids. Each token is sampled from the same logits and mask
  // as without guesses. Uses only what the sequence owns and its stream; not its cache. Overwrites
  // the rows.
  void take_turn(std::span<float> rows, int most_guesses) noexcept;

  void end_left_turn(std::chrono::duration<double> cpu_time) noexcept;  // by that thread

  // Records how the sequence ended. The scheduler frees the cache, then calls tell_stream().
  void end(FinishReason reason, std::optional<SampledToken> stop_token = {});
  void end(std::exception_ptr error);
  bool has_ended() const { return reason_ || error_; }
  void tell_stream();
  void tell_progress();  // of the prompt
  // Marks of StreamCounts' times: a step has a part of the prompt; the prompt is computed. Only the
  // first call of each counts.
  void mark_begin() noexcept;
  void mark_prompt() noexcept;
  void pause() noexcept;  // frees the cache; what it held is computed again once it is read

  std::vector<int32_t> ids;  // the prompt, then what was generated
  const int n_prompt;
  const int max_ids;  // with this many ids, the reply ends with finish_reason "length"
  int n_cached = 0;   // positions 0 .. n_cached-1 are in the cache
  KvSequence cache;
  std::string cache_salt;  // sequences with different ones share no pages, and await none
  Sampler sampler;
  Drafter drafter;
  std::vector<int32_t> guesses;  // computed after ids in the next step
  GuessSource guess_source = GuessSource::kNone;
  Drafting drafting;
  GuessRecord guess_record;  // where there is a draft model
  StreamCounts counts;
  TurnCounts turn;          // the last one
  std::vector<float> rows;  // for the next turn, if another thread may be left with it
  int most_guesses = 0;     // likewise
  std::atomic<bool> turn_ended = true;
  std::chrono::duration<double> left_time{};      // of CPU time, if another thread was left with it
  std::chrono::steady_clock::time_point left_at;  // and when that was
  // Because of its grammar, the last turn was slow; another thread was left with it.
  bool is_slow = false, was_left = false;
  StreamState state;                      // of the stream, in this step
  bool has_place = false;                 // among the sequences that are computed first
  bool is_paused = false;                 // see pause()
  bool takes_part = false;                // in this step
  uint64_t read_at = 0;                   // the step in which somebody read it last
  std::shared_ptr<SharedPrompt> shared;   // null: no other reply awaits, or is awaited for, it
  const std::shared_ptr<float[]> logits;  // the result of an evaluation
  int first_logits = 0;                   // its first position; or
  std::shared_ptr<Embedding> pooled;      // the result of an embedding
  bool is_scored = false;                 // the result is the ids' log probabilities
  const std::shared_ptr<TokenStream> stream;

 private:
  using Clock = std::chrono::steady_clock;

  const Clock::time_point came_ = Clock::now();
  std::optional<Clock::time_point> began_, had_prompt_;
  std::optional<FinishReason> reason_;
  std::optional<SampledToken> stop_token_;
  std::exception_ptr error_;

  void append(SampledToken token);
  void append_forced();
  void guess(int limit);
  void push(SampledToken token);

  Sequence(ForwardPass& model, std::vector<int32_t> prompt, int max_ids,
           const SamplingParams& params, std::shared_ptr<float[]> logits,
           std::shared_ptr<TokenStream> stream);
};

}  // namespace starchat
