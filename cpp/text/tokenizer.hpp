// Text to token ids and back: byte-level BPE rebuilt from a vocabulary alone, equal to Hugging
// Face's tokenizer of the StarCoder family for every string. First and last step of every request.
// Bytes in, bytes out. A byte value that has no token (C0, C1, F1, F5-FF in StarCoder's) is left
// out of the ids, as Hugging Face leaves it out: decode(encode(text)) shows whether one was.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/merges.hpp"

namespace starchat {

// Control tokens are recognised by their bytes, since files hold no token types: `<|name|>`, the
// published names of StarCoder and SantaCoder (`<fim_prefix>`, `<fim-prefix>`, `<filename>` ...)
// and `[PAD]`. All mix signs and letters, which the pre-tokenizer separates, so text never becomes
// one by merging: only a caller who allows it gets its id.
// All members are const after construction and safe to call from any number of threads.
class Tokenizer {
 public:
  explicit Tokenizer(std::vector<std::string> vocabulary);  // raw bytes of every token, by id
  Tokenizer(const Tokenizer&) = delete;                     // ids_ views into vocabulary_
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Any bytes, also invalid UTF-8. Control tokens in the text are plain text unless allowed.
  std::vector<int32_t> encode(std::string_view text, bool allow_special = false) const;
  // Only the named control tokens are allowed; InvalidRequestError for a name that is none.
  std::vector<int32_t> encode(std::string_view text, const std::vector<std::string>& allowed) const;
  // The tokens' bytes in a row; half a character stays half. InvalidRequestError for a wrong id.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  std::string_view token_bytes(int32_t id) const;             // InvalidRequestError for a wrong id
  std::optional<int32_t> find(std::string_view bytes) const;  // the lowest id with these bytes
  bool is_special(int32_t id) const;                          // InvalidRequestError for a wrong id
  const std::vector<int32_t>& special_ids() const { return special_ids_; }  // one for each name
  int32_t size() const { return static_cast<int32_t>(vocabulary_.size()); }

 private:
  std::vector<int32_t> encode_with(std::string_view text, std::span<const int32_t> allowed) const;
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const;
  void rebuild_merges();

  std::vector<std::string> vocabulary_;
  std::unordered_map<std::string_view, int32_t> ids_;  // a padded vocabulary repeats: the lowest
  std::array<int32_t, 256> byte_ids_;                  // kAbsent where a byte has no token
  std::vector<bool> is_reachable_;                     // by id: plain text can become this token
  std::vector<int32_t> special_ids_;
  Merges merges_;
};

}  // namespace starchat
