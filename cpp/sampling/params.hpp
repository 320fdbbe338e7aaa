// How one sequence is continued: the fields of a request, checked before anything is computed.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace starchat {

using LogitBias = std::map<int64_t, double>;  // token id → what is added to its logit
using TokenIds = std::vector<int64_t>;

struct SamplingParams {
#define NUMBER(type, name, value, ...) type name = value;
#define COLLECTION(type, name, meaning) type name;
#include "sampling/params.def"
  TokenIds control_ids;  // of the vocabulary, ascending: never in the reply; stop ids end it

  void validate(int n_vocab) const;  // throws InvalidRequestError
};

}  // namespace starchat
