#include "sampling/params.hpp"

#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>

#include "base/errors.hpp"

namespace starchat {
namespace {

// Unless it holds, `actual` is beyond `least` or `most`.
template <class T>
void require(bool holds, const std::string& field, const std::string& expected, T actual,
             std::type_identity_t<T> least,
             std::type_identity_t<T> most = std::numeric_limits<T>::max()) {
  if (holds) return;
  std::ostringstream message;
  message << field << ": expected " << expected << ", got " << actual;
  throw InvalidRequestError(message.str(),
                            {.param = field, .limit = actual > most ? most : least, .got = actual});
}

}  // namespace

// Every comparison is written so that NaN fails it.
void SamplingParams::validate(int n_vocab) const {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::string id_range = "a token id from 0 to " + std::to_string(n_vocab - 1);

  require(max_tokens > 0, "max_tokens", "at least 1", max_tokens, 1);
  require(min_tokens >= 0 && min_tokens <= max_tokens, "min_tokens",
          "0 to max_tokens (" + std::to_string(max_tokens) + ")", min_tokens, 0, max_tokens);
  require(temperature >= 0 && temperature < kInfinity, "temperature",
          "a finite number of at least 0 (0: greedy)", temperature, 0);
  require(top_k >= 0, "top_k", "at least 0 (0: off)", top_k, 0);
  require(top_p > 0 && top_p <= 1, "top_p", "above 0 and at most 1 (1: off)", top_p, 0, 1);
  require(min_p >= 0 && min_p <= 1, "min_p", "0 to 1 (0: off)", min_p, 0, 1);
  require(repetition_penalty > 0 && repetition_penalty < kInfinity, "repetition_penalty",
          "a finite number above 0 (1: off)", repetition_penalty, 0);
  require(std::abs(frequency_penalty) <= 2, "frequency_penalty", "-2 to 2 (0: off)",
          frequency_penalty, -2, 2);
  require(std::abs(presence_penalty) <= 2, "presence_penalty", "-2 to 2 (0: off)", presence_penalty,
          -2, 2);
  for (const auto& [id, bias] : logit_bias) {
    require(id >= 0 && id < n_vocab, "logit_bias", id_range, id, 0, n_vocab - 1);
    require(bias < kInfinity, "logit_bias[" + std::to_string(id) + "]",
            "a finite number, or -inf to ban the token", bias,
            std::numeric_limits<double>::lowest());
  }
  for (const int64_t id : stop_token_ids)
    require(id >= 0 && id < n_vocab, "stop_token_ids", id_range, id, 0, n_vocab - 1);
  require(n_logprobs >= -1 && n_logprobs <= n_vocab, "logprobs",
          "-1 (none) to the size of the vocabulary (" + std::to_string(n_vocab) + ")", n_logprobs,
          -1, n_vocab);
}

}  // namespace starchat
