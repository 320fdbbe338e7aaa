// How merges that a file lacks are rebuilt: training adds tokens in the order of their ids.
// Applying the earlier merges to a token's bytes gives the pair that formed it. If the result is
// not two parts, no merge makes this token (control tokens, padding, added tokens).
#include "text/tokenizer.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <set>
#include <utility>

#include "base/errors.hpp"
#include "text/pretokenizer.hpp"

namespace starchat {
namespace {

constexpr int32_t kAbsent = -1;
constexpr size_t kPauseBytes = 1 << 16;

constexpr std::string_view kSpecialNames[] = {
    "<fim_prefix>",    "<fim_middle>",    "<fim_suffix>",   "<fim_pad>",    "<fim-prefix>",
    "<fim-middle>",    "<fim-suffix>",    "<fim-pad>",      "<filename>",   "<gh_stars>",
    "<issue_start>",   "<issue_comment>", "<issue_closed>", "<reponame>",   "<jupyter_start>",
    "<jupyter_text>",  "<jupyter_code>",  "<empty_output>", "<commit_msg>", "<jupyter_output>",
    "<commit_before>", "<commit_after>",  "[PAD]",
};

bool is_special_name(std::string_view bytes) {
  if (std::ranges::find(kSpecialNames, bytes) != std::end(kSpecialNames)) return true;
  if (bytes.size() < 5 || !bytes.starts_with("<|") || !bytes.ends_with("|>")) return false;
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const std::string_view name = bytes.substr(2, bytes.size() - 4);
  return std::ranges::any_of(name, is_letter) && std::ranges::all_of(name, [&](char c) {
           return is_letter(c) || (c >= '0' && c <= '9') || c == '_' || c == '-';
         });
}

bool is_printable(std::string_view bytes) {  // ASCII, and not empty
  return !bytes.empty() && std::ranges::all_of(bytes, [](char c) { return c >= ' ' && c <= '~'; });
}

std::vector<std::string> checked(std::vector<std::string> vocabulary) {
  if (vocabulary.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw InvalidRequestError("vocabulary of " + std::to_string(vocabulary.size()) +
                              " tokens: token ids have 31 bits, so at most 2147483647");
  }
  return vocabulary;
}

}  // namespace

Tokenizer::Tokenizer(Vocabulary vocabulary)
    : vocabulary_(checked(std::move(vocabulary.tokens))),
      is_control_(vocabulary_.size()),
      is_added_(vocabulary_.size()),
      is_reachable_(vocabulary_.size()),
      merges_(std::max(vocabulary_.size(), vocabulary.merges.size())) {
  byte_ids_.fill(kAbsent);
  ids_.reserve(vocabulary_.size());
  std::set<std::string_view> names;
  for (const int32_t id : vocabulary.control_ids) names.insert(vocabulary_.at(id));
  for (const int32_t id : vocabulary.added_ids) is_added_.at(id) = true;
  std::vector<TokenNames::Name> special, added;
  std::set<std::string_view> added_bytes;
  for (int32_t id = 0; id < size(); ++id) {
    const std::string& bytes = vocabulary_[id];
    const bool is_control = is_special_name(bytes) || names.contains(bytes);
    is_control_[id] = is_control;
    if (is_control) control_ids_.push_back(id);
    if (is_control || bytes.empty()) is_added_[id] = false;
    if (is_added_[id] && added_bytes.insert(bytes).second) added.push_back({bytes, id});
    if (!ids_.emplace(bytes, id).second) continue;
    if (bytes.size() == 1 && !is_control) {
      byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
      is_reachable_[id] = true;
    }
    if (is_control && is_printable(bytes)) {
      special_ids_.push_back(id);
      special.push_back({bytes, id});
    }
    longest_ = std::max(longest_, static_cast<int64_t>(bytes.size()));
  }
  special_names_ = TokenNames(std::move(special));
  added_names_ = TokenNames(std::move(added));
  // A character is one byte below 80, or ends with one of 80 to BF.
  keeps_each_character_ = std::ranges::find(byte_ids_.begin(), byte_ids_.begin() + 0xC0, kAbsent) ==
                          byte_ids_.begin() + 0xC0;
  if (vocabulary.merges.empty()) {
    for_each_merged([this](int32_t id, std::span<const int32_t> parts) {
      if (parts.size() != 2) return;
      merges_.add(parts[0], parts[1], id);
      is_reachable_[id] = true;
    });
    return;
  }
  for (const auto& [left, right, merged] : vocabulary.merges) {
    if (!is_control_[merged]) merges_.add(left, right, merged);
  }
  for_each_merged([this](int32_t id, std::span<const int32_t> parts) {
    is_reachable_[id] = parts.size() == 1 && parts[0] == id;
  });
}

// Calls visit(id, parts) for each token of more than one byte that may be made from text, with what
// the merges leave of its bytes.
template <class Visit>
void Tokenizer::for_each_merged(const Visit& visit) {
  std::vector<int32_t> parts;
  for (int32_t id = 0; id < size(); ++id) {
    const std::string& bytes = vocabulary_[id];
    if (bytes.size() < 2 || is_control_[id] || ids_.at(bytes) != id) continue;
    parts.clear();
    for (const char c : bytes) parts.push_back(byte_ids_[static_cast<uint8_t>(c)]);
    if (std::ranges::find(parts, kAbsent) != parts.end()) continue;
    merges_.apply(parts);
    visit(id, parts);
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool allow_special,
                                       const Pause& pause) const {
  static const TokenNames kNone;
  return encode_with(text, allow_special ? special_names_ : kNone, pause);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text,
                                       const std::vector<std::string>& allowed,
                                       const Pause& pause) const {
  std::vector<TokenNames::Name> chosen;
  std::set<int32_t> ids;
  for (const std::string& name : allowed) {
    const TokenNames::Name* const found = special_names_.longest_at(name);
    if (!found || found->bytes != name) {
      std::string names;
      for (const int32_t special : special_ids_) names += " " + vocabulary_[special];
      throw InvalidRequestError("allowed control token '" + name.substr(0, 80) +
                                    "': this vocabulary has " +
                                    (names.empty() ? "none" : "only" + names),
                                {.param = "allow_special"});
    }
    if (ids.insert(found->id).second) chosen.push_back(*found);
  }
  return encode_with(text, TokenNames(std::move(chosen)), pause);
}

std::vector<int32_t> Tokenizer::encode_with(std::string_view text, const TokenNames& allowed,
                                            const Pause& pause) const {
  if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw InvalidRequestError("text of " + std::to_string(text.size()) +
                                  " bytes: at most 2147483647 can be encoded at once, so split it",
                              {.param = "text",
                               .limit = std::numeric_limits<int32_t>::max(),
                               .got = static_cast<int64_t>(text.size())});
  }
  std::vector<int32_t> ids;
  cut(text, allowed, ids, pause, [&](std::string_view rest) {
    cut(rest, added_names_, ids, pause,
        [&](std::string_view plain) { encode_plain(plain, ids, pause); });
  });
  return ids;
}

// Adds the ids of the names in a text, and calls encode_rest(text) for what is before, between and
// after them.
template <class Rest>
void Tokenizer::cut(std::string_view text, const TokenNames& names, std::vector<int32_t>& ids,
                    const Pause& pause, const Rest& encode_rest) const {
  size_t begin = 0;  // of the rest before `at`
  size_t next_pause = kPauseBytes;
  for (size_t at = 0; (at = names.next_start(text, at)) < text.size();) {
    if (pause && at >= next_pause) {
      pause();
      next_pause = at + kPauseBytes;
    }
    const TokenNames::Name* const found = names.longest_at(text.substr(at));
    if (!found) {
      ++at;
      continue;
    }
    encode_rest(text.substr(begin, at - begin));
    ids.push_back(found->id);
    begin = at += found->bytes.size();
  }
  encode_rest(text.substr(begin));
}

int64_t Tokenizer::least_ids(int64_t n_characters) const {
  return keeps_each_character_ ? (n_characters + longest_ - 1) / longest_ : 0;
}

void Tokenizer::encode_plain(std::string_view text, std::vector<int32_t>& ids,
                             const Pause& pause) const {
  std::vector<int32_t> parts;
  size_t next_pause = text.size() - std::min(text.size(), kPauseBytes);  // at so many bytes left
  while (!text.empty()) {
    if (pause && text.size() < next_pause) {
      pause();
      next_pause = text.size() - std::min(text.size(), kPauseBytes);
    }
    const std::string_view piece = next_piece(text);
    text.remove_prefix(piece.size());
    // If a piece has exactly the bytes of a token that merges can make, the result is that token.
    if (const auto whole = ids_.find(piece); whole != ids_.end() && is_reachable_[whole->second]) {
      ids.push_back(whole->second);
      continue;
    }
    parts.clear();
    for (const char c : piece) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
      if (id != kAbsent) parts.push_back(id);
    }
    merges_.apply(parts, pause);
    ids.insert(ids.end(), parts.begin(), parts.end());
  }
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const std::string_view token = token_bytes(id);
    if (!skip_special || !is_special(id)) bytes += token;
  }
  return bytes;
}

std::string_view Tokenizer::token_bytes(int64_t id) const {
  if (id < 0 || id >= size()) {
    throw InvalidRequestError("token id " + std::to_string(id) + ": this vocabulary has " +
                                  std::to_string(size()) + " tokens, ids 0 to " +
                                  std::to_string(size() - 1),
                              {.param = "token_ids", .limit = id < 0 ? 0 : size() - 1, .got = id});
  }
  return vocabulary_[id];
}

std::optional<int32_t> Tokenizer::find(std::string_view bytes) const {
  const auto entry = ids_.find(bytes);
  return entry == ids_.end() ? std::nullopt : std::optional(entry->second);
}

bool Tokenizer::is_special(int32_t id) const {
  token_bytes(id);  // checks it
  return is_control_[id];
}

bool Tokenizer::is_added(int32_t id) const {
  token_bytes(id);  // checks it
  return is_added_[id];
}

}  // namespace starchat
