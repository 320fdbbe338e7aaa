#include "engine/loop_threads.hpp"

#include <chrono>
#include <utility>

#include "base/cpu_time.hpp"
#include "base/thread_pool.hpp"
#include "base/thread_priority.hpp"

namespace starchat {
namespace {

using std::chrono::milliseconds;

// The thread that stands by looks so often. Work is left to its thread when it has taken this CPU
// time since it was first seen, a hundred times what an ordinary grammar needs; or when it was seen
// so often, if it waits for something.
constexpr milliseconds kPeriod{3};
constexpr double kMostSeconds = 2e-3;
constexpr int kMostPeriods = 33;
constexpr int kIdlePeriods = 50;  // without a call; then it sleeps until the next one
constexpr milliseconds kMostForLeft{500};

}  // namespace

LoopThreads::LoopThreads(std::function<bool()> loop) {
  state_->loop = std::move(loop);
  start_thread([state = state_] { state->run(); }).detach();
}

void LoopThreads::leave(std::function<void()> work) {
  const auto state = state_;
  auto body = [state, work = std::move(work)]() mutable {
    lower_priority(this_thread());
    std::exchange(work, nullptr)();
    state->end_left();
  };
  const std::lock_guard lock(state->mutex);
  start_thread(std::move(body)).detach();
  ++state->n_left;
}

void LoopThreads::join() {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->has_ended && !state_->has_standby; });
  state_->changed.wait_for(lock, kMostForLeft, [&] { return state_->n_left == 0; });
}

// Of the thread that has the loop, until it has ended or gone on elsewhere.
void LoopThreads::State::run() {
  {
    const std::lock_guard lock(mutex);
    system_id = this_thread();
    clock = cpu_clock();
  }
  const bool ended = loop();
  if (!ended) return end_left();
  const std::lock_guard lock(mutex);
  has_ended = true;
  changed.notify_all();
}

void LoopThreads::State::end_left() {
  const std::lock_guard lock(mutex);
  --n_left;
  changed.notify_all();
}

uint64_t LoopThreads::State::begin_call() noexcept {
  if (!has_standby) {
    has_standby = true;
    try {
      start_thread([state = shared_from_this()] { state->stand_by(); }).detach();
    } catch (...) {  // no memory for a thread: this call is not watched
      has_standby = false;
    }
  }
  const uint64_t number = call + 1;  // even before, odd within
  call = number;
  if (standby_sleeps) {
    const std::lock_guard lock(mutex);
    standby_sleeps = false;
    changed.notify_all();
  }
  return number;
}

bool LoopThreads::State::end_call(uint64_t number) noexcept {
  return call.compare_exchange_strong(number, number + 1);
}

void LoopThreads::State::stand_by() {
  std::unique_lock lock(mutex);
  uint64_t seen = 0;
  double seen_seconds = 0;  // of CPU time then
  for (int n_same = 0; !has_ended;) {
    uint64_t now = call;
    const bool is_in_call = now % 2 == 1;
    if (now != seen) {
      seen = now;
      n_same = 0;
      if (is_in_call) seen_seconds = cpu_seconds(clock);
    } else if (++n_same; is_in_call) {
      const bool is_long =
          n_same >= kMostPeriods || cpu_seconds(clock) - seen_seconds > kMostSeconds;
      if (is_long && call.compare_exchange_strong(now, now + 1)) {
        lower_priority(system_id);
        ++n_left;
        has_standby = false;  // the next call starts another one
        lock.unlock();
        run();
        return;
      }
    }
    if (is_in_call || n_same < kIdlePeriods) {
      changed.wait_for(lock, kPeriod, [&] { return has_ended; });
      continue;
    }
    standby_sleeps = true;
    if (call == seen) changed.wait(lock, [&] { return !standby_sleeps || has_ended; });
    standby_sleeps = false;
    n_same = 0;
  }
  has_standby = false;
  changed.notify_all();
}

}  // namespace starchat
