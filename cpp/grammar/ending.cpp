#include "grammar/ending.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/cpu_time.hpp"
#include "base/errors.hpp"

namespace starchat {
namespace {

// Where so many bytes are allowed, the text is free, as within a string.
constexpr size_t kFreeBytes = 40;
constexpr int kStepsBetweenChecks = 16;
constexpr double kMostSeconds = 0.1;  // CPU time of a search; most take less than 5 ms
// So often a choice is made in one state before the next best is: some grammars never end else.
constexpr int kMostRepeats = 2, kMostFillers = 16;
constexpr size_t kLongestFiller = 16, kFillersPerLength = 4;
constexpr int kDigits = 4;  // to try: the next one matters to a multiple
// Outside of free text: what closes comes first, what opens or goes on comes last.
constexpr std::string_view kFirst = "}])\"'`>,;:\n Z1023456789Tntf";
constexpr std::string_view kLast = ".+-\\<({[";
constexpr std::string_view kMayClose = "\"'`<>\n}]),;:@|/*#$%&=!?.~^_- +([{";

bool is_letter(char byte) { return (byte | 32) >= 'a' && (byte | 32) <= 'z'; }

uint64_t hash_of(const std::vector<uint32_t>& mask) {
  uint64_t hash = 0;
  for (const uint32_t word : mask) hash = (hash ^ word) * 0x9e3779b97f4a7c15 + (hash >> 31);
  return hash;
}

// The rank of a byte outside of free text: the lowest is tried first.
size_t rank(unsigned char byte) {
  const char character = static_cast<char>(byte);
  if (const size_t place = kFirst.find(character); place != kFirst.npos) return place;
  if (const size_t place = kLast.find(character); place != kLast.npos) return 1000 + place;
  return 500 + byte;
}

class EndingSearch {
 public:
  EndingSearch(const Constraint& from, const EndingVocabulary& vocabulary, int n_steps)
      : from_(from),
        vocabulary_(vocabulary),
        tokenizer_(vocabulary.tokenizer),
        n_steps_(n_steps),
        deadline_(cpu_seconds() + kMostSeconds),
        mask_((tokenizer_.size() + 31) / 32) {}

  bool completes(std::span<const int32_t> ids) {
    const auto at = from_.clone();
    if (at->n_allowed(ids) < ids.size()) return false;
    for (const int32_t id : ids) at->accept(id);
    return at->fill_mask(mask_);
  }

  std::optional<std::vector<int32_t>> find(size_t n_most) {
    Path best;
    best.n_tokens = 2 * n_most + 64;  // what is longer can hardly be shortened to n_most
    bool has_ended = walk(best, from_.clone(), best.n_tokens);
    for (size_t i = best.points.size(); !has_ended && i-- > 0;)
      while (!has_ended && has_others(best, i)) has_ended = vary(best, i);
    if (!has_ended) return {};
    for (size_t i = 0; best.n_tokens > n_most && i < best.points.size(); ++i)
      while (best.n_tokens > n_most && has_others(best, i)) vary(best, i);
    if (best.n_tokens > n_most) return {};
    return as_tokens(best.ids);
  }

  bool is_slow() const { return cpu_seconds() > deadline_; }

 private:
  // A place where another token could follow: the state there, and what was not tried yet.
  struct Point {
    std::shared_ptr<const Constraint> at;
    size_t n_ids;
    std::vector<int32_t> others;
  };
  struct Path {
    std::vector<int32_t> ids;
    std::vector<Point> points;
    size_t n_tokens = 0;
  };

  bool has_others(const Path& path, size_t i) const {
    return !path.points[i].others.empty() && n_steps_ > 0 && !is_slow();
  }

  // Takes another choice at this point, and what follows it greedily, if that is shorter.
  bool vary(Path& path, size_t i) {
    Point& point = path.points[i];
    Path other;
    other.ids.assign(path.ids.begin(), path.ids.begin() + point.n_ids);
    other.ids.push_back(point.others.front());
    auto at = point.at->clone();
    at->accept(point.others.front());
    point.others.erase(point.others.begin());
    other.points.assign(path.points.begin(), path.points.begin() + i + 1);
    if (!walk(other, std::move(at), path.n_tokens) || other.n_tokens >= path.n_tokens) return false;
    path = std::move(other);
    return true;
  }

  // Goes on until the text may end, and counts its tokens. Gives up where there are more than
  // n_most.
  bool walk(Path& path, std::unique_ptr<Constraint> at, size_t n_most) {
    std::map<std::pair<uint64_t, int32_t>, int> n_repeats;  // of a choice where this mask holds
    for (int n = 1;; ++n) {
      if (--n_steps_ < 0) return false;
      if (is_slow()) return false;
      if (n % kStepsBetweenChecks == 0 && as_tokens(path.ids).size() > n_most) return false;
      if (const auto forced = at->forced(); !forced.empty()) {
        for (const int32_t id : forced) at->accept(id);
        path.ids.insert(path.ids.end(), forced.begin(), forced.end());
        continue;
      }
      if (at->fill_mask(mask_)) {
        path.n_tokens = as_tokens(path.ids).size();
        return true;
      }
      auto choices = choices_at(*at);
      if (choices.empty()) return false;
      const bool is_free = token_length(choices.front()) > 1;
      const auto is_fresh = [&](int32_t id) {
        return n_repeats[{hash_of(mask_), id}] < (is_free ? kMostFillers : kMostRepeats);
      };
      auto chosen = std::ranges::find_if(choices, is_fresh);
      if (chosen == choices.end()) chosen = choices.begin();
      const int32_t id = *chosen;
      ++n_repeats[{hash_of(mask_), id}];
      choices.erase(chosen);
      if (!choices.empty()) path.points.push_back({at->clone(), path.ids.size(), choices});
      at->accept(id);
      path.ids.push_back(id);
    }
  }

  // The tokens to try where mask_ holds, the best one first.
  std::vector<int32_t> choices_at(const Constraint& at) {
    std::string bytes = allowed_bytes();
    if (bytes.empty()) {
      const int32_t id = first_allowed();
      return id < 0 ? std::vector<int32_t>{} : std::vector<int32_t>{id};
    }
    if (bytes.size() >= kFreeBytes) {
      if (const int32_t id = closing_byte(at, bytes); id >= 0) return {id};
      if (const int32_t id = filler(); id >= 0) {
        std::vector<int32_t> ids{id};
        for (const char byte : kMayClose)
          if (bytes.find(byte) != bytes.npos) ids.push_back(id_of(byte));
        return ids;
      }
    }
    std::ranges::sort(bytes, {}, [](char byte) { return rank(static_cast<unsigned char>(byte)); });
    keep(kDigits, bytes, 10, [](char byte) { return byte >= '0' && byte <= '9'; });
    keep(1, bytes, 26, [](char byte) { return byte >= 'a' && byte <= 'z'; });
    keep(1, bytes, 26, [](char byte) { return byte >= 'A' && byte <= 'Z'; });
    keep(1, bytes, 2, [](char byte) { return byte < 0; });
    std::vector<int32_t> ids;
    for (const char byte : bytes) ids.push_back(id_of(byte));
    return ids;
  }

  size_t token_length(int32_t id) const { return tokenizer_.token_bytes(id).size(); }

  int32_t id_of(char byte) const { return vocabulary_.byte_ids[static_cast<unsigned char>(byte)]; }

  bool is_allowed(int32_t id) const { return mask_[id / 32] >> id % 32 & 1; }

  std::string allowed_bytes() const {
    std::string bytes;
    for (int value = 0; value < 256; ++value) {
      const int32_t id = vocabulary_.byte_ids[value];
      if (id >= 0 && is_allowed(id)) bytes += static_cast<char>(value);
    }
    return bytes;
  }

  // How many bytes are allowed; faster than a mask of all tokens.
  size_t n_bytes_at(Constraint& at) const {
    return std::ranges::count_if(vocabulary_.byte_ids, [&](const int32_t& id) {
      return id >= 0 && at.n_allowed({&id, 1}) > 0;
    });
  }

  int32_t first_allowed() const {
    for (int32_t id = 0; id < tokenizer_.size(); ++id)
      if (is_allowed(id)) return id;
    return -1;
  }

  // The token of the first byte behind which less is allowed than in this text; -1 if there is
  // none.
  int32_t closing_byte(const Constraint& at, const std::string& bytes) {
    const auto [known, is_new] = closing_ids_.try_emplace(hash_of(mask_), -1);
    if (!is_new) return known->second;
    int32_t& found = known->second;
    for (const char byte : kMayClose) {
      if (bytes.find(byte) == bytes.npos) continue;
      const int32_t id = id_of(byte);
      const auto after = at.clone();
      after->accept(id);
      --n_steps_;
      if (!after->forced().empty() || n_bytes_at(*after) < bytes.size()) {
        found = id;
        break;
      }
    }
    return found;
  }

  // The longest allowed token of letters, for text that has to be longer; -1 if there is none.
  int32_t filler() const {
    const auto& ids = vocabulary_.fillers;
    const auto found = std::ranges::find_if(ids, [&](int32_t id) { return is_allowed(id); });
    return found == ids.end() ? -1 : *found;
  }

  // Of many bytes of a kind, which are mostly the same to a grammar, keeps the first ones.
  static void keep(int n, std::string& bytes, int many, bool (*is_of_kind)(char)) {
    if (std::ranges::count_if(bytes, is_of_kind) < many) return;
    std::erase_if(bytes, [&](char byte) { return is_of_kind(byte) && n-- <= 0; });
  }

  // The same text as the tokenizer encodes it, unless that is longer.
  std::vector<int32_t> as_tokens(const std::vector<int32_t>& ids) const {
    const auto is_special = [&](int32_t id) { return tokenizer_.is_special(id); };
    if (std::ranges::any_of(ids, is_special)) return ids;
    auto encoded = tokenizer_.encode(tokenizer_.decode(ids));
    return encoded.size() <= ids.size() ? encoded : ids;
  }

  const Constraint& from_;
  const EndingVocabulary& vocabulary_;
  const Tokenizer& tokenizer_;
  int n_steps_;
  std::map<uint64_t, int32_t> closing_ids_;  // by the hash of a mask
  const double deadline_;
  std::vector<uint32_t> mask_;
};

}  // namespace

EndingVocabulary::EndingVocabulary(const Tokenizer& all) : tokenizer(all) {
  for (int value = 0; value < 256; ++value) {
    const char byte = static_cast<char>(value);
    byte_ids[value] = tokenizer.find({&byte, 1}).value_or(-1);
  }
  for (size_t length = kLongestFiller; length > 0; --length) {
    size_t n = 0;
    for (int32_t id = 0; id < tokenizer.size() && n < kFillersPerLength; ++id) {
      const auto bytes = tokenizer.token_bytes(id);
      if (bytes.size() != length || !std::ranges::all_of(bytes, is_letter)) continue;
      fillers.push_back(id);
      ++n;
    }
  }
}

Ending find_ending(const Constraint& from, const EndingVocabulary& vocabulary,
                   std::span<const int32_t> known, size_t n_most, int n_steps) {
  try {
    EndingSearch search(from, vocabulary, n_steps);
    if (known.size() <= n_most && search.completes(known))
      return {std::vector<int32_t>(known.begin(), known.end())};
    auto found = search.find(n_most);
    if (found && !search.completes(*found)) found.reset();
    return {std::move(found), search.is_slow()};
  } catch (const ConstraintError&) {  // a limit of the grammar library, on the way
    return {};
  }
}

}  // namespace starchat
