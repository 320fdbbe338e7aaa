// Logits → token id, one Sampler per sequence: logit_bias → repetition penalty (prompt and output)
// → frequency and presence penalties (output) → min_tokens → greedy, or temperature → top_k →
// top_p → min_p → draw. The same seed draws the same tokens on every machine: fixed order of
// sums, ties to the lowest id, no libm.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sampling/params.hpp"
#include "sampling/random.hpp"

namespace starchat {

struct SampledToken {
  int32_t id = 0;
  // Log softmax of the model's own logits, before anything above is applied.
  std::optional<double> logprob;
  std::vector<std::pair<int32_t, double>> top_logprobs;  // the n_logprobs best ids, best first
};

struct Candidate {
  float logit;
  int32_t id;
  double weight;  // probability relative to the best candidate's
};

class Sampler {
 public:
  Sampler(SamplingParams params, std::span<const int32_t> prompt);

  // Chooses the next token and remembers it. Overwrites logits. Throws NumericalError for NaN and
  // +inf, InvalidRequestError when every token is masked.
  SampledToken sample(std::span<float> logits);

  // What sample() draws from at a temperature above 0; valid until the next call.
  const std::vector<Candidate>& candidates(std::span<float> logits);

  void remember(int32_t id);  // a token of the output
  bool is_stop(int32_t id) const;
  const SamplingParams& params() const { return params_; }

 private:
  void scan(std::span<const float> logits);
  bool adjust(std::span<float> logits);
  void prepare(std::span<float> logits);
  void select_best(std::span<const float> logits, size_t k);
  void narrow(std::span<const float> logits);
  int32_t argmax(std::span<const float> logits) const;
  int32_t draw();

  SamplingParams params_;
  Random random_;
  bool has_penalties_;
  int64_t n_generated_ = 0;
  std::unordered_map<int32_t, int64_t> counts_;  // seen id → times in the output (0: prompt only)

  float best_ = 0;                       // the highest logit
  std::vector<float> block_best_;        // of every kBlock logits
  std::vector<float> thresholds_, raw_;  // work space
  std::vector<Candidate> candidates_;
};

}  // namespace starchat
