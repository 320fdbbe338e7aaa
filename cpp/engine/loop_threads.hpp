// The threads that run the engine's loop, one at a time. What may take long, the work of a grammar,
// the loop does within call(). If that does not come back soon, a thread that stands by goes on
// with the loop, and the thread that called is left with the work. So quick work needs no second
// thread, and slow work stops nobody. Work that is known to be slow gets a thread at once: systems
// are slow to spread threads over cores again, so the loop should stay where it is.
#pragma once
#include <time.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

namespace starchat {

class LoopThreads {
 public:
  // Starts the loop. It returns true when it has ended, and false after call() returned false.
  // Throws OutOfMemoryError if the system cannot start a thread.
  explicit LoopThreads(std::function<bool()> loop);
  ~LoopThreads() { join(); }
  LoopThreads(const LoopThreads&) = delete;
  LoopThreads& operator=(const LoopThreads&) = delete;

  // Within the loop. Calls work(), which must not throw, and returns whether this thread still has
  // the loop. If not, another one runs it already, or it has ended and its owner is gone: then work
  // and what follows call() may only use what they own.
  template <class Work>
  bool call(const Work& work) noexcept {
    const auto state = state_;
    const uint64_t number = state->begin_call();
    work();
    return state->end_call(number);
  }

  // Within the loop. Calls work(), which must not throw, in a thread of low priority; it may only
  // use what it owns. Throws OutOfMemoryError or std::bad_alloc.
  void leave(std::function<void()> work);

  // Waits until the loop has ended, and a short time for threads that are left with work.
  void join();

 private:
  struct State : std::enable_shared_from_this<State> {
    uint64_t begin_call() noexcept;
    bool end_call(uint64_t number) noexcept;
    void run();
    void end_left();
    void stand_by();

    std::function<bool()> loop;
    // Twice the number of the last call, plus 1 while the loop is in it.
    std::atomic<uint64_t> call = 0;
    std::atomic<bool> has_standby = false, standby_sleeps = false;
    std::mutex mutex;
    std::condition_variable changed;
    // Of the thread that has the loop.
    int system_id = 0;
    clockid_t clock{};
    bool has_ended = false;
    int n_left = 0;  // threads with work
  };

  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace starchat
