// Which tokens a reply may contain, token by token: the interface between the engine and a grammar
// library. One object for each sequence, used by one thread at a time. All members may throw
// ConstraintError; then the object must not be used any more.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace starchat {

// The message if no token may follow and the text may not end either.
inline constexpr const char* kNothingAllowed =
    "the constraint allows no token here: it contradicts itself, or needs bytes that no token of "
    "this vocabulary has";

// The message if only control tokens may follow, and none of them ends the reply.
inline constexpr const char* kOnlyControlAllowed =
    "the constraint allows only control tokens here, and no reply contains one: leave them out, "
    "or name one that ends the reply, such as <|end|> (with ignore_eos, none does)";

// Clears the bits of these ids in a mask.
inline void forbid(std::span<const int64_t> ids, std::span<uint32_t> mask) {
  for (const int64_t id : ids) mask[static_cast<size_t>(id) / 32] &= ~(uint32_t{1} << id % 32);
}

// What a text still needs to be complete.
struct Ending {
  std::optional<std::vector<int32_t>> ids;  // nothing if none was found
  bool is_slow = false;                     // the search took too long to be repeated
};

class Constraint {
 public:
  virtual ~Constraint() = default;

  // Appends this id, which must be allowed, to the text.
  virtual void accept(int32_t id) = 0;

  // Sets bit i of mask, (n_vocab + 31) / 32 words, if id i may come next, and clears the other
  // bits. Returns whether the text may end here. Stop ids get no special treatment.
  virtual bool fill_mask(std::span<uint32_t> mask) = 0;

  // Forced tokens: the ids that must come next, as the tokenizer encodes their text. Empty if there
  // is a choice.
  virtual std::vector<int32_t> forced() = 0;

  // The length of the longest allowed prefix of ids.
  virtual size_t n_allowed(std::span<const int32_t> ids) = 0;

  // A copy in the same state.
  virtual std::unique_ptr<Constraint> clone() const = 0;

  // At most n_most ids after which the text may end, if it goes on with `next`; nothing if a search
  // of n_steps finds none. `known`, an ending of an earlier state, is tried first.
  virtual Ending ending(std::span<const int32_t> /*next*/, std::span<const int32_t> /*known*/,
                        size_t /*n_most*/, int /*n_steps*/) const {
    return {};
  }
};

}  // namespace starchat
