#include "base/core_share.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>

namespace starchat {

namespace {

std::atomic<int> n_engines{0}, n_wanted{0};  // of those that compute, and the sum of their threads

// The engines of a parent do not compute in its child.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
  n_engines = 0;
  n_wanted = 0;
});

}  // namespace

int CoreShare::begin() {
  if (!counts_) {
    ++n_engines;
    n_wanted += n_threads_;
    counts_ = true;
  }
  const int engines = n_engines, others = n_wanted - n_threads_;
  if (engines <= 1) return n_threads_;
  return std::clamp(std::max(n_cores_ / engines, n_cores_ - others), 1, n_threads_);
}

void CoreShare::end() {
  if (!counts_) return;
  counts_ = false;
  --n_engines;
  n_wanted -= n_threads_;
}

}  // namespace starchat
