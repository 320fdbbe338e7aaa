// A queue of the keys of streams with new tokens: one thread can wait for many streams.
// A stream's place is made with the stream, so telling that it has news allocates nothing.
#pragma once
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <mutex>

namespace starchat {

class ReadyQueue {
 private:
  struct Entry {
    int64_t key;
    bool is_ready = false;  // it is in ready_
  };

 public:
  using Place = std::list<Entry>::iterator;

  Place add(int64_t key) {
    std::list<Entry> entry{{key}};
    const Place place = entry.begin();
    const std::lock_guard lock(mutex_);
    idle_.splice(idle_.end(), entry);
    return place;
  }

  void remove(Place place) {
    const std::lock_guard lock(mutex_);
    (place->is_ready ? ready_ : idle_).erase(place);
  }

  // A key that is in the queue stays where it is.
  void push(Place place) noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (closed_ || place->is_ready) return;
      place->is_ready = true;
      ready_.splice(ready_.end(), idle_, place);
    }
    changed_.notify_one();
  }

  // Some of the keys; no more, because a reader that has no memory must be told even so.
  struct Keys {
    std::array<int64_t, 64> values;
    size_t n = 0;
  };

  // Moves keys out; waits for the first. False: timeout. True without keys: closed.
  bool wait(std::chrono::milliseconds timeout, Keys& keys) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, timeout, [&] { return closed_ || !ready_.empty(); })) return false;
    for (keys.n = 0; keys.n < keys.values.size() && !ready_.empty(); ++keys.n) {
      keys.values[keys.n] = ready_.front().key;
      ready_.front().is_ready = false;
      idle_.splice(idle_.end(), ready_, ready_.begin());
    }
    return true;
  }

  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
      for (Entry& entry : ready_) entry.is_ready = false;
      idle_.splice(idle_.end(), ready_);
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Entry> ready_, idle_;
  bool closed_ = false;
};

}  // namespace starchat
