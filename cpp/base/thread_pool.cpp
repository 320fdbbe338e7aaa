#include "base/thread_pool.hpp"

#include <algorithm>
#include <utility>
#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace starchat {

namespace {

constexpr int kSpins = 4000;  // some 50 us: about the serial part between two loops of a step

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `value` differs from `old`: a short spin, then a futex.
template <typename T>
void wait_while(std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

int available_processors() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

ThreadPool::ThreadPool(int n_threads) {
  for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  ++generation_;
  generation_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::parallel_for(int64_t n_items, int64_t grain, const Body& body) {
  if (n_items <= 0) return;
  if (workers_.empty() || n_items <= grain) {
    body(0, n_items, 0);
    return;
  }
  body_ = &body;
  n_items_ = n_items;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  n_busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  take_pieces(0);
  for (int busy = n_busy_.load(std::memory_order_acquire); busy != 0;
       busy = n_busy_.load(std::memory_order_acquire)) {
    wait_while(n_busy_, busy);
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    wait_while(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    take_pieces(thread);
    if (n_busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) n_busy_.notify_one();
  }
}

void ThreadPool::take_pieces(int thread) {
  try {
    for (;;) {
      const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= n_items_) return;
      (*body_)(begin, std::min(begin + grain_, n_items_), thread);
    }
  } catch (...) {
    next_.store(n_items_, std::memory_order_relaxed);  // the rest is not worth computing
    const std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

}  // namespace starchat
