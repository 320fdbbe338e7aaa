#include "grammar/call_watch.hpp"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <string>
#include <vector>

#include "base/cpu_time.hpp"
#include "base/errors.hpp"
#include "base/thread_pool.hpp"

namespace starchat {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPeriod{10};
constexpr double kPeriodSeconds = std::chrono::duration<double>(kPeriod).count();
constexpr int kIdlePeriods = 50;  // without a call; then the watch sleeps until the next one

std::string shown(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", seconds);
  return text;
}

// The call that a thread is in, if it is in one.
struct Place {
  std::mutex mutex;
  clockid_t clock{};  // CPU time of this thread
  uint64_t number = 0;
  const std::function<void()>* cancel = nullptr;  // null: in no call
  double most_seconds = 0;
  bool was_cancelled = false;
  // Of the watch: the call that it saw last, and the thread's CPU time then.
  uint64_t seen = 0;
  double seen_seconds = 0;
};

class Watch {
 public:
  void add(Place* place) {
    const std::lock_guard lock(mutex_);
    if (!is_started_) {
      start_thread([this] { run(); }).detach();
      is_started_ = true;
    }
    places_.push_back(place);
  }

  void remove(Place* place) {
    const std::lock_guard lock(mutex_);
    std::erase(places_, place);
  }

  void wake() {
    if (!sleeps_.load(std::memory_order_relaxed)) return;
    const std::lock_guard lock(mutex_);
    sleeps_ = false;
    changed_.notify_one();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (int n_idle = 0;;) {
      n_idle = look() ? 0 : n_idle + 1;
      sleeps_ = n_idle >= kIdlePeriods;
      if (sleeps_) {
        // A call that began just before this is seen a second later.
        changed_.wait_for(lock, std::chrono::seconds(1), [&] { return !sleeps_; });
        sleeps_ = false;
      } else {
        changed_.wait_for(lock, kPeriod);
      }
    }
  }

  bool look() {
    bool has_calls = false;
    for (Place* place : places_) {
      const std::lock_guard lock(place->mutex);
      if (!place->cancel) continue;
      has_calls = true;
      const double now = cpu_seconds(place->clock);
      if (place->seen != place->number) {
        place->seen = place->number;
        place->seen_seconds = now;
      } else if (!place->was_cancelled && now - place->seen_seconds > place->most_seconds) {
        place->was_cancelled = true;
        (*place->cancel)();
      }
    }
    return has_calls;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Place*> places_;
  std::atomic<bool> sleeps_ = false;
  bool is_started_ = false;
};

// Never destroyed: threads may be in a call when the process ends. A forked child has no watching
// thread and begins with a watch of its own.
std::atomic<Watch*> watch = new Watch;
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] { watch = new Watch; });

struct ThreadsPlace {
  Place* place = nullptr;
  Watch* watch = nullptr;

  Place& here() {
    if (watch != starchat::watch) {  // the first call of this thread, or of a forked child
      auto* const made = new Place;  // after a fork, the old one may be locked for ever
      made->clock = cpu_clock();
      starchat::watch.load()->add(made);
      place = made;
      watch = starchat::watch;
    }
    return *place;
  }

  ~ThreadsPlace() {
    if (!place || watch != starchat::watch) return;
    watch->remove(place);
    delete place;
  }
};

thread_local ThreadsPlace threads_place;

}  // namespace

WatchedCall::WatchedCall(GrammarBudget& budget, const std::function<void()>& cancel)
    : budget_(budget) {
  Place& place = threads_place.here();
  {
    const std::lock_guard lock(place.mutex);
    ++place.number;
    place.cancel = &cancel;
    place.most_seconds = budget.mask_seconds;
    place.was_cancelled = false;
  }
  threads_place.watch->wake();
}

WatchedCall::~WatchedCall() {
  Place& place = *threads_place.place;
  const std::lock_guard lock(place.mutex);
  place.cancel = nullptr;
}

void WatchedCall::check() const {
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin_;
  double seconds = elapsed.count();
  bool was_cancelled;
  {
    Place& place = *threads_place.place;
    const std::lock_guard lock(place.mutex);
    was_cancelled = place.was_cancelled;
    // To ask for CPU time takes 1 µs, so quick calls do not.
    if (place.seen == place.number)
      seconds = std::min(seconds, cpu_seconds() - place.seen_seconds + kPeriodSeconds);
  }
  budget_.used_seconds += seconds;
  if (was_cancelled)
    throw ConstraintError(
        "the constraint took more than " + shown(budget_.mask_seconds) +
            " s of CPU time at one token (limits.mask_seconds): simplify it",
        {.param = "limits.mask_seconds", .limit = budget_.mask_seconds, .got = seconds});
  if (budget_.used_seconds > budget_.reply_seconds)
    throw ConstraintError("the constraint took " + shown(budget_.used_seconds) +
                              " s in one reply, expected at most " + shown(budget_.reply_seconds) +
                              " s (limits.grammar_seconds): simplify it",
                          {.param = "limits.grammar_seconds",
                           .limit = budget_.reply_seconds,
                           .got = budget_.used_seconds});
}

}  // namespace starchat
