// Text to token ids and back: byte-level BPE, rebuilt from the vocabulary alone where a file has no
// merges. Gives the same ids as Hugging Face's tokenizer of the StarCoder family for every string.
// Input and output are bytes. A byte value without a token (C0, C1, F1, F5-FF in StarCoder's) is
// dropped, as Hugging Face drops it; then decode(encode(text)) differs from the text.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/vocabulary.hpp"
#include "text/merges.hpp"
#include "text/token_names.hpp"

namespace starchat {

// Control tokens are those that the file names, and as most files name none, those that have the
// bytes of one: `<|name|>`, the published names of StarCoder and SantaCoder (`<fim_prefix>`,
// `<fim-prefix>`, `<filename>` ...) and `[PAD]`. Merging never makes one from text; encode() gives
// its id only if the caller allows it.
// Added tokens are those that the file calls user-defined. Each is cut out of a text before its
// rest is merged: the leftmost, and of those that begin there the longest; after control tokens.
// Immutable after construction: any number of threads may call the members.
class Tokenizer {
 public:
  // A control token that is not printable ASCII (that of a row without a token is empty) has no
  // name: no text and no reply has it.
  explicit Tokenizer(Vocabulary vocabulary);
  Tokenizer(const Tokenizer&) = delete;  // ids_ views into vocabulary_
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Any bytes, also invalid UTF-8. Control tokens in the text are plain text unless allowed.
  std::vector<int32_t> encode(std::string_view text, bool allow_special = false,
                              const Pause& pause = {}) const;
  // Only the named control tokens are allowed; InvalidRequestError for a name that is none.
  std::vector<int32_t> encode(std::string_view text, const std::vector<std::string>& allowed,
                              const Pause& pause = {}) const;
  // A bound that needs no look at the text: so many characters of UTF-8 have at least so many ids.
  // 0 for a vocabulary that drops whole characters.
  int64_t least_ids(int64_t n_characters) const;
  // The concatenated bytes of the tokens, which may end within a UTF-8 character.
  // InvalidRequestError for a wrong id.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  std::string_view token_bytes(int64_t id) const;             // InvalidRequestError for a wrong id
  std::optional<int32_t> find(std::string_view bytes) const;  // the lowest id with these bytes
  bool is_special(int32_t id) const;                          // InvalidRequestError for a wrong id
  bool is_added(int32_t id) const;                            // InvalidRequestError for a wrong id
  const std::vector<int32_t>& special_ids() const { return special_ids_; }  // one for each name
  // Every id whose bytes are a control token's: more than one for a name where a file repeats it.
  const std::vector<int64_t>& control_ids() const { return control_ids_; }
  int32_t size() const { return static_cast<int32_t>(vocabulary_.size()); }

 private:
  std::vector<int32_t> encode_with(std::string_view text, const TokenNames& allowed,
                                   const Pause& pause) const;
  template <class Rest>
  void cut(std::string_view text, const TokenNames& names, std::vector<int32_t>& ids,
           const Pause& pause, const Rest& encode_rest) const;
  void encode_plain(std::string_view text, std::vector<int32_t>& ids, const Pause& pause) const;
  template <class Visit>
  void for_each_merged(const Visit& visit);

  std::vector<std::string> vocabulary_;
  std::unordered_map<std::string_view, int32_t> ids_;  // the lowest id, if bytes are repeated
  std::array<int32_t, 256> byte_ids_;                  // kAbsent where a byte has no token
  std::vector<bool> is_control_;                       // by id
  std::vector<bool> is_added_;                         // by id: no control token has it, too
  std::vector<bool> is_reachable_;                     // by id: encoding plain text can give it
  std::vector<int32_t> special_ids_;
  std::vector<int64_t> control_ids_;
  TokenNames special_names_, added_names_;
  int64_t longest_ = 1;               // bytes of a token
  bool keeps_each_character_ = true;  // some byte of it has a token
  Merges merges_;
};

}  // namespace starchat
