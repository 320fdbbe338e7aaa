// Any vocabulary and any text: what encode() and decode() promise for each of them.
#include "text/tokenizer.hpp"

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "text/pretokenizer.hpp"

using namespace starchat;

namespace {

void require(bool holds, const char* law) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", law);
  std::abort();
}

Vocabulary any_vocabulary(FuzzedDataProvider& data) {
  Vocabulary vocabulary;
  std::vector<std::string>& tokens = vocabulary.tokens;
  if (data.ConsumeBool()) {
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  }
  const int n_tokens = data.ConsumeIntegralInRange(0, 300);
  for (int i = 0; i < n_tokens && data.remaining_bytes() > 0; ++i) {
    tokens.push_back(data.ConsumeRandomLengthString(40));
  }
  const int n_merges = tokens.empty() ? 0 : data.ConsumeIntegralInRange(0, 300);
  const auto any_id = [&] {
    return data.ConsumeIntegralInRange(0, static_cast<int>(tokens.size()) - 1);
  };
  for (int i = 0; i < n_merges && data.remaining_bytes() > 0; ++i) {
    const int left = any_id(), right = any_id();
    const auto merged = std::ranges::find(tokens, tokens[left] + tokens[right]);
    if (merged == tokens.end()) continue;
    vocabulary.merges.push_back({left, right, static_cast<int>(merged - tokens.begin())});
  }
  const int n_added = tokens.empty() ? 0 : data.ConsumeIntegralInRange(0, 300);
  for (int i = 0; i < n_added && data.remaining_bytes() > 0; ++i) {
    vocabulary.added_ids.push_back(any_id());
  }
  return vocabulary;
}

// Without the bytes that have no token of their own: encode() leaves them out.
std::string without_absent(const Tokenizer& tokenizer, std::string_view text) {
  std::string kept;
  for (const char byte : text) {
    if (tokenizer.find(std::string_view(&byte, 1))) kept += byte;
  }
  return kept;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  const Vocabulary vocabulary = any_vocabulary(data);
  const Tokenizer tokenizer(vocabulary);
  const std::string text = data.ConsumeRemainingBytesAsString();

  std::vector<int32_t> by_piece;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view piece = next_piece(rest);
    require(!piece.empty() && rest.starts_with(piece), "a piece is where the text begins");
    rest.remove_prefix(piece.size());
    const auto ids = tokenizer.encode(piece);
    by_piece.insert(by_piece.end(), ids.begin(), ids.end());
  }
  const bool has_added = !vocabulary.added_ids.empty();
  const auto ids = tokenizer.encode(text);
  require(ids == by_piece || has_added, "a text has the ids of its pieces");
  const std::string decoded = tokenizer.decode(ids);  // added tokens keep bytes without a token
  require(
      (has_added ? without_absent(tokenizer, decoded) : decoded) == without_absent(tokenizer, text),
      "decode undoes encode");
  for (const int32_t id : ids) {
    require(!tokenizer.is_special(id), "plain text has no control tokens");
    require(tokenizer.is_added(id) || tokenizer.find(tokenizer.token_bytes(id)) == id,
            "the lowest id stands for its bytes");
  }
  for (const int32_t id : vocabulary.added_ids) {
    const std::string_view name = tokenizer.token_bytes(id);
    require(!tokenizer.is_added(id) || text.find(name) == std::string::npos ||
                std::ranges::any_of(ids, [&](int32_t each) { return tokenizer.is_added(each); }),
            "an added token is cut out of a text");
  }

  const auto marked = tokenizer.encode(text, /*allow_special=*/true);
  require(without_absent(tokenizer, tokenizer.decode(marked)) == without_absent(tokenizer, text),
          "decode undoes encode where control tokens are allowed");
  require(tokenizer.encode(text, std::vector<std::string>()) == ids,
          "an empty list allows no control token");
  std::string unmarked;
  for (const int32_t id : marked) {
    if (!tokenizer.is_special(id)) unmarked += tokenizer.token_bytes(id);
  }
  require(tokenizer.decode(marked, /*skip_special=*/true) == unmarked,
          "skip_special leaves out control tokens and nothing else");
  return 0;
}
