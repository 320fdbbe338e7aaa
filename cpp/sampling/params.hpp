// How one sequence is continued: the fields of a request, checked before anything is computed.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

namespace starchat {

struct SamplingParams {
  int64_t max_tokens = 256;
  int64_t min_tokens = 0;    // stop ids are masked before
  double temperature = 0.2;  // 0: greedy
  int64_t top_k = 50;        // 0: off
  double top_p = 0.95;       // 1: off
  double min_p = 0.0;        // 0: off
  double repetition_penalty = 1.0;
  double frequency_penalty = 0.0;
  double presence_penalty = 0.0;
  std::map<int64_t, double> logit_bias;  // token id → what is added; -inf bans the token
  uint64_t seed = 0;
  std::vector<int64_t> stop_token_ids;
  bool speculation = true;  // guess ahead; the tokens are the same without
  int64_t n_logprobs = -1;  // -1: none; n: the chosen token's and the n best

  void validate(int n_vocab) const;  // throws InvalidRequestError
};

}  // namespace starchat
