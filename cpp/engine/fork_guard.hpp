// Shared ownership that a forked child process cannot use. The child has no engine thread, and its
// copies of mutexes may stay locked forever. So in the child, use throws ForkError, and the
// destructor leaks the object instead of waiting for a thread that does not exist.
#pragma once
#include <unistd.h>

#include <memory>
#include <utility>

#include "base/errors.hpp"

namespace starchat {

template <class T>
class ForkGuard {
 public:
  explicit ForkGuard(std::shared_ptr<T> object) : object_(std::move(object)) {}
  ForkGuard(ForkGuard&&) = default;
  ~ForkGuard() {
    if (!is_here()) new std::shared_ptr<T>(std::move(object_));
  }

  bool is_here() const { return owner_ == getpid(); }

  const std::shared_ptr<T>& get() const {
    if (!is_here())
      throw ForkError(
          "this model was loaded before the process forked, and its threads stayed in the parent: "
          "load it in the child, or start processes by spawn");
    return object_;
  }
  T* operator->() const { return get().get(); }

 private:
  std::shared_ptr<T> object_;
  pid_t owner_ = getpid();
};

}  // namespace starchat
