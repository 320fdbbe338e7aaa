// Work that only the engine's thread may do, between two steps: one task a step. Whoever posted it
// may wait for its end, or not.
#pragma once
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <utility>

#include "engine/current_error.hpp"

namespace starchat {

class EngineTask {
 public:
  explicit EngineTask(std::function<void()> work) : work_(std::move(work)) {}

  void run() noexcept {
    try {
      work_();
      end(nullptr);
    } catch (...) {
      end(current_error());
    }
  }

  void end(std::exception_ptr error) noexcept {
    work_ = nullptr;  // it may hold pages
    const std::lock_guard lock(mutex_);
    error_ = std::move(error);
    has_ended_ = true;
    ended_.notify_all();
  }

  // Returns whether the task has ended; throws what it threw.
  bool wait(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    if (!ended_.wait_for(lock, timeout, [this] { return has_ended_; })) return false;
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  std::function<void()> work_;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::exception_ptr error_;
  bool has_ended_ = false;
};

}  // namespace starchat
