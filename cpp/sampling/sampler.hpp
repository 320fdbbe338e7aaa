// Logits → token id, one Sampler per sequence. In this order: logit_bias → repetition penalty
// (prompt and output) → frequency and presence penalties (output) → min_tokens → constraint →
// greedy, or temperature → top_k → top_p → min_p → draw. A drawn control token is drawn again. The
// same seed draws the same tokens everywhere: fixed order of sums, the lowest id wins, no libm.
#pragma once
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sampling/constraint.hpp"
#include "sampling/params.hpp"
#include "sampling/random.hpp"

namespace starchat {

struct SampledToken {
  int32_t id = 0;
  // Log softmax of the model's logits, before logit_bias and the other steps above.
  std::optional<double> logprob;
  std::vector<std::pair<int32_t, double>> top_logprobs;  // the likeliest ids, best first
};

struct Candidate {
  float logit;
  int32_t id;
  double weight;  // probability relative to the best candidate's
};

class Sampler {
 public:
  Sampler(SamplingParams params, std::span<const int32_t> prompt);

  // The output begins with the ids of `lead`; after them, the constraint decides. A stop id may be
  // chosen where the text may end, and where the constraint allows it as text. Throws
  // ConstraintError if nothing is allowed; so do the members below after the constraint has failed.
  // otherwise: replaces the constraint where the model would begin with a token that it forbids.
  void constrain(std::unique_ptr<Constraint> constraint, std::span<const int32_t> lead, int n_vocab,
                 std::unique_ptr<Constraint> otherwise = nullptr);

  // Chooses the next token and calls remember(). Near the end of max_tokens, a token after which a
  // constrained text could not end within them gives way to a known ending's. Overwrites logits.
  // Throws NumericalError for NaN and +inf, InvalidRequestError if every token is masked.
  SampledToken sample(std::span<float> logits);

  // What sample() would report if it chose this id, which is not remembered. Throws NumericalError.
  SampledToken score(std::span<const float> logits, int32_t id);

  // Guesses what sample() will choose, from the logits of another model: with the random numbers
  // that sample() will draw, so that models which agree choose alike. begin_guesses() begins with
  // the next token; is_first: this one, whose mask is known. What sample() chooses does not change.
  // Overwrites logits. Throws as sample().
  void begin_guesses() { random_of_guesses_ = random_; }
  int32_t guess(std::span<float> logits, bool is_first);

  // The candidates that sample() draws from if temperature > 0; valid until the next call.
  const std::vector<Candidate>& candidates(std::span<float> logits);

  void remember(int32_t id);  // appends a token to the output
  bool is_stop(int32_t id) const;

  // Forced tokens: the ids that must come next, whatever the logits are. sample() chooses them; a
  // caller that needs no logprobs may remember() them without logits.
  std::span<const int32_t> forced() const { return std::span(forced_).subspan(n_forced_used_); }
  bool is_constrained() const { return constraint_ != nullptr; }
  bool is_complete() const { return is_complete_; }  // no token may follow
  // The length of the longest prefix of ids that the constraint allows.
  size_t n_allowed(std::span<const int32_t> ids);

  const SamplingParams& params() const { return params_; }

 private:
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

  void count(int32_t id);
  void scan(std::span<const float> logits);
  bool adjust(std::span<float> logits);
  void look_ahead();
  void look_for_ending();
  void force_ending();
  int32_t within_reach(int32_t id);
  std::optional<std::vector<int32_t>> ending_after(std::span<const int32_t> next, int n_steps);
  int64_t n_left() const { return params_.max_tokens.value_or(kUnlimited) - n_generated_; }
  bool is_control(int32_t id) const;
  bool is_banned(int32_t id) const;
  bool masks_stop() const;
  void decide(std::span<const float> logits);
  void prepare(std::span<float> logits);
  void scan_masked(std::span<const float> logits);
  void select_best(std::span<const float> logits, size_t k);
  double report_best(std::span<const float> logits, SampledToken& token);
  void narrow(std::span<const float> logits);
  int32_t choose(std::span<float> logits);
  int32_t pick(std::span<const float> logits);
  int32_t argmax(std::span<const float> logits) const;
  int32_t draw();

  SamplingParams params_;
  Random random_, random_of_guesses_;
  bool has_penalties_;
  int64_t n_generated_ = 0;
  struct Seen {
    int64_t n_in_prompt = 0, n_in_reply = 0;
  };
  std::unordered_map<int32_t, Seen> seen_;  // by id; what left the window is not counted
  std::deque<int32_t> window_;              // the last ids; empty if all count
  size_t n_prompt_in_window_ = 0;           // its first ids are of the prompt

  std::unique_ptr<Constraint> constraint_;
  std::unique_ptr<Constraint> otherwise_;  // not null: decide() has to run
  std::vector<uint32_t> allowed_;  // one bit per id, stop ids included; unused if ids are forced
  std::vector<int32_t> forced_;
  size_t n_forced_used_ = 0;
  size_t n_lead_ = 0;  // remaining ids of the lead, which the constraint does not see
  bool is_complete_ = false;

  // Near the end of max_tokens: ids that would end the text within it.
  std::optional<std::vector<int32_t>> ending_;
  int64_t search_at_ = kUnlimited;  // look for one when so few tokens are left
  int n_failed_searches_ = 0;       // with kMostFailedSearches, no more are made
  bool was_incomplete_ = false;     // whether the text was ever such that it could not end

  float best_ = 0;                       // the highest logit
  std::vector<float> block_best_;        // of every kBlock logits
  std::vector<float> thresholds_, raw_;  // scratch memory, kept between calls
  std::vector<Candidate> candidates_;
};

}  // namespace starchat
