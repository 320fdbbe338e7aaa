// A queue of the keys of streams with new tokens: one thread can wait for many streams.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace starchat {

class ReadyQueue {
 public:
  // A stream calls this once until it is drained, so no key is in the queue twice.
  void push(int64_t key) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return;
      keys_.push_back(key);
    }
    changed_.notify_one();
  }

  // Moves all keys out; waits for the first. False: timeout. True without keys: closed.
  bool wait(std::chrono::milliseconds timeout, std::vector<int64_t>& keys) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, timeout, [&] { return closed_ || !keys_.empty(); })) return false;
    keys = std::exchange(keys_, {});
    return true;
  }

  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
      keys_.clear();
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int64_t> keys_;
  bool closed_ = false;
};

}  // namespace starchat
