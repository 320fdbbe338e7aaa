// Finds a short way to end a constrained text: what a reply still needs to be complete. The sampler
// asks near the end of max_tokens. Knows of a grammar only which tokens it allows.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "sampling/constraint.hpp"
#include "text/tokenizer.hpp"

namespace starchat {

// What a search looks up in a vocabulary.
class EndingVocabulary {
 public:
  explicit EndingVocabulary(const Tokenizer& tokenizer);

  const Tokenizer& tokenizer;
  std::array<int32_t, 256> byte_ids;  // -1 where a byte has no token
  std::vector<int32_t> fillers;       // tokens of letters, the longest first
};

// Finds at most n_most ids after which a text in the state of `from` may end: `known`, an ending
// of an earlier state, if it still is one. Otherwise the text is ended greedily: what is open is
// closed, and what is optional left out. If that is too long, other choices are tried, one at a
// time, until n_steps tokens have been tried.
Ending find_ending(const Constraint& from, const EndingVocabulary& vocabulary,
                   std::span<const int32_t> known, size_t n_most, int n_steps);

}  // namespace starchat
