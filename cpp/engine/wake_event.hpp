// Wakes the engine's thread: it sleeps until somebody rings. Streams share it, so that one that
// outlives its engine rings a bell that nobody hears.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace starchat {

class WakeEvent {
 public:
  void ring() {
    {
      const std::lock_guard lock(mutex_);
      ++n_rings_;
    }
    rung_.notify_all();
  }

  // Read this before looking for work, and no ring between the look and the wait is lost.
  uint64_t n_rings() {
    const std::lock_guard lock(mutex_);
    return n_rings_;
  }

  void wait(uint64_t seen) {
    std::unique_lock lock(mutex_);
    rung_.wait(lock, [&] { return n_rings_ != seen; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable rung_;
  uint64_t n_rings_ = 0;
};

}  // namespace starchat
