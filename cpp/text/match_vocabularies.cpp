#include "text/match_vocabularies.hpp"

#include <algorithm>
#include <string_view>

#include "base/errors.hpp"
#include "base/format_number.hpp"

namespace starchat {
namespace {

constexpr size_t kShown = 40;  // bytes of a token in a message

// A control token, one that the file calls user-defined, or what fills up a vocabulary: nothing, or
// a token that is there already.
bool is_added(const Tokenizer& tokenizer, int32_t id) {
  const std::string_view bytes = tokenizer.token_bytes(id);
  return bytes.empty() || tokenizer.is_special(id) || tokenizer.is_added(id) ||
         tokenizer.find(bytes) != id;
}

// By id of `from`, the id of the token with the same bytes in `to`.
std::vector<int32_t> ids_in(const Tokenizer& to, const Tokenizer& from, int n_same, int32_t other) {
  std::vector<int32_t> ids(from.size());
  for (int32_t id = 0; id < from.size(); ++id) {
    const std::string_view bytes = from.token_bytes(id);
    ids[id] = id < n_same ? id : bytes.empty() ? other : to.find(bytes).value_or(other);
  }
  return ids;
}

std::string shown(const Tokenizer& tokenizer, int32_t id) {
  if (id >= tokenizer.size()) return "none";
  std::string text;
  for (const char c : tokenizer.token_bytes(id).substr(0, kShown))
    text += c >= ' ' && c <= '~' ? c : '?';
  return "'" + text + "'";
}

}  // namespace

IdMap match_vocabularies(const Tokenizer& model, const std::string& model_name,
                         const Tokenizer& draft, const std::string& draft_name) {
  const int n_both = std::min(model.size(), draft.size());
  int n_same = 0;
  while (n_same < n_both && model.token_bytes(n_same) == draft.token_bytes(n_same)) ++n_same;
  for (int32_t id = n_same; id < std::max(model.size(), draft.size()); ++id) {
    if ((id >= model.size() || is_added(model, id)) && (id >= draft.size() || is_added(draft, id)))
      continue;
    throw InvalidRequestError(
        "draft: " + draft_name + " has another vocabulary than " + model_name + ": token " +
            format_number(id) + " is " + shown(draft, id) + ", expected " + shown(model, id) +
            "; only added tokens at the end may differ, so take a draft of the same family",
        {.param = "draft", .got = id});
  }
  const int32_t other = draft.special_ids().empty() ? 0 : draft.special_ids().front();
  return {ids_in(draft, model, n_same, other), ids_in(model, draft, n_same, -1), n_same};
}

}  // namespace starchat
