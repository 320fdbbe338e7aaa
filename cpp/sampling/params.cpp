#include "sampling/params.hpp"

#include <limits>
#include <sstream>
#include <string>
#include <type_traits>

#include "base/errors.hpp"

namespace starchat {
namespace {

enum Lower { FROM, ABOVE };

// Converts to the largest finite number of any type.
constexpr struct {
  template <class T>
  constexpr operator T() const {
    return std::numeric_limits<T>::max();
  }
} unlimited{};

template <class T>
ErrorFields::Number as_number(T value) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<int64_t>(value);
  else
    return value;
}

// Every comparison is written so that NaN fails it.
template <class T>
void require(const std::string& field, T actual, Lower lower, std::type_identity_t<T> least,
             std::type_identity_t<T> most, const std::string& expected) {
  if ((lower == FROM ? actual >= least : actual > least) && actual <= most) return;
  std::ostringstream message;
  message << field << ": expected " << expected << ", got " << actual;
  throw InvalidRequestError(
      message.str(),
      {.param = field, .limit = as_number(actual > most ? most : least), .got = as_number(actual)});
}

template <class T>
void require(const std::string& field, std::optional<T> actual, Lower lower,
             std::type_identity_t<T> least, std::type_identity_t<T> most,
             const std::string& expected) {
  if (actual) require(field, *actual, lower, least, most, expected);
}

}  // namespace

void SamplingParams::validate(int n_vocab) const {
#define NUMBER(type, name, value, lower, least, most, expected, meaning) \
  require(#name, name, lower, least, most, expected);
#define COLLECTION(type, name, meaning)
#include "sampling/params.def"

  const std::string id_range = "a token id from 0 to " + std::to_string(n_vocab - 1);
  for (const auto& [id, bias] : logit_bias) {
    require("logit_bias", id, FROM, 0, n_vocab - 1, id_range);
    if (bias != -std::numeric_limits<double>::infinity())
      require("logit_bias[" + std::to_string(id) + "]", bias, FROM,
              std::numeric_limits<double>::lowest(), unlimited,
              "a finite number, or -inf to ban the token");
  }
  for (const int64_t id : stop_token_ids)
    require("stop_token_ids", id, FROM, 0, n_vocab - 1, id_range);
}

}  // namespace starchat
