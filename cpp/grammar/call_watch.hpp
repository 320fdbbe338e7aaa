// Ends calls of the grammar library that take too long. A thread of the process looks at all calls
// that run, and cancels one whose thread has used too much CPU time since it began.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

namespace starchat {

// What the constraint of one reply may take; copies of the constraint share what was used.
struct GrammarBudget {
  double mask_seconds = 0.05;  // CPU time of a call
  double reply_seconds = 5;    // of all calls; of those below 10 ms, by the clock
  double used_seconds = 0;
};

// A call of the library, while it lives. cancel() is called from another thread, at most once.
class WatchedCall {
 public:
  WatchedCall(GrammarBudget& budget, const std::function<void()>& cancel);
  ~WatchedCall();
  WatchedCall(const WatchedCall&) = delete;
  WatchedCall& operator=(const WatchedCall&) = delete;

  // Throws ConstraintError if the call was cancelled, or if the reply has used up its budget.
  void check() const;

 private:
  GrammarBudget& budget_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace starchat
