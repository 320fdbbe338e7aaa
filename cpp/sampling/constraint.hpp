// What a reply may say, token by token: the seam between the engine and a grammar library. One
// object for each sequence, used by one thread at a time. All members throw ConstraintError, after
// which the object is of no more use.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace starchat {

// The message where nothing may follow, and the text may not end either.
inline constexpr const char* kDeadEnd =
    "the constraint allows no token here: it contradicts itself, or needs bytes that no token of "
    "this vocabulary has";

class Constraint {
 public:
  virtual ~Constraint() = default;

  // The text goes on with this id, which was allowed.
  virtual void accept(int32_t id) = 0;

  // Sets bit i of mask, (n_vocab + 31) / 32 words, where id i may come next, and clears the
  // others; returns whether the text may end here. Ids that end a reply are not its business.
  virtual bool fill_mask(std::span<uint32_t> mask) = 0;

  // The ids that come next whatever the model says, cut as the tokenizer cuts their text; none
  // where there is a choice.
  virtual std::vector<int32_t> forced() = 0;

  // How many of these ids, from the first on, are allowed in a row.
  virtual size_t n_allowed(std::span<const int32_t> ids) = 0;
};

}  // namespace starchat
