// Event that wakes the engine thread. Streams share ownership of it, so a stream may signal it
// after its engine is gone, without effect.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace starchat {

class WakeEvent {
 public:
  void signal() {
    {
      const std::lock_guard lock(mutex_);
      ++n_signals_;
    }
    changed_.notify_all();
  }

  // Read this before looking for work and pass it to wait(): then no signal in between is lost.
  uint64_t n_signals() {
    const std::lock_guard lock(mutex_);
    return n_signals_;
  }

  // Returns once n_signals() differs from `seen`; if briefly, after some time in any case.
  void wait(uint64_t seen, bool briefly = false) {
    std::unique_lock lock(mutex_);
    const auto has_changed = [&] { return n_signals_ != seen; };
    if (briefly)
      changed_.wait_for(lock, std::chrono::milliseconds(100), has_changed);
    else
      changed_.wait(lock, has_changed);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t n_signals_ = 0;
};

}  // namespace starchat
