// The prompt of several replies, computed by the first of their sequences. The others share its
// full pages, copy the last one, and draw their first token from the same logits.
#pragma once
#include <vector>

#include "model/kv_pages.hpp"

namespace starchat {

struct SharedPrompt {
  explicit SharedPrompt(KvPool& pool) : pages(pool) {}
  bool is_computed() const { return !logits.empty(); }

  KvSequence pages;           // of all ids; the first sequence goes on writing to the last page
  std::vector<float> logits;  // (n_vocab), after the last id
};

}  // namespace starchat
