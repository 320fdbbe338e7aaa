// A queue of the keys of streams with new tokens: one thread can wait for many streams.
// A stream's place is made with the stream, so telling that it has news allocates nothing.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

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

  // Moves all keys out; waits for the first. False: timeout. True without keys: closed. If it
  // throws std::bad_alloc, the keys stay.
  bool wait(std::chrono::milliseconds timeout, std::vector<int64_t>& keys) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, timeout, [&] { return closed_ || !ready_.empty(); })) return false;
    keys.clear();
    keys.reserve(ready_.size());
    for (Entry& entry : ready_) {
      keys.push_back(entry.key);
      entry.is_ready = false;
    }
    idle_.splice(idle_.end(), ready_);
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
