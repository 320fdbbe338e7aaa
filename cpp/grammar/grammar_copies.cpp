#include "grammar/grammar_copies.hpp"

#include <string>

#include "base/errors.hpp"
#include "base/format_number.hpp"

namespace starchat {
namespace {

constexpr int64_t kSmall = 1 << 20;  // tools with 40 parameters take 0.1 MiB

std::string in_mib(int64_t bytes) {
  constexpr int64_t kMib = 1 << 20;
  return format_number((bytes + kMib - 1) / kMib) + " MiB";
}

}  // namespace

std::shared_ptr<const void> GrammarCopies::take(int64_t bytes) {
  if (bytes <= kSmall) return nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (bytes > most_bytes_ - bytes_)
      throw ConstraintError(
          "a reply has a copy of its grammar, here of " + in_mib(bytes) +
              ", and other replies have " + in_mib(bytes_) +
              " of large grammars, expected at most " + in_mib(most_bytes_) +
              ": simplify it, try again when they have ended, or raise "
              "limits.grammar_copy_bytes",
          {.param = "limits.grammar_copy_bytes", .limit = most_bytes_, .got = bytes_ + bytes});
    bytes_ += bytes;
  }
  const auto give_back = [copies = shared_from_this(), bytes](const void*) {
    const std::lock_guard lock(copies->mutex_);
    copies->bytes_ -= bytes;
  };
  return {this, give_back};  // which is called too where there is no memory for the pointer
}

}  // namespace starchat
