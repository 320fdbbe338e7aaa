// The bytes of all copies of large grammars that replies have now. Each reply has a copy of its
// grammar, of which a compiled form of 85 MiB makes 70.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>

namespace starchat {

class GrammarCopies : public std::enable_shared_from_this<GrammarCopies> {
 public:
  explicit GrammarCopies(int64_t most_bytes) : most_bytes_(most_bytes) {}

  // Room for a copy of so many bytes, until what is returned is destroyed; small ones are not
  // counted. Throws ConstraintError where other replies have too much of it.
  std::shared_ptr<const void> take(int64_t bytes);

 private:
  const int64_t most_bytes_;
  std::mutex mutex_;
  int64_t bytes_ = 0;
};

}  // namespace starchat
