#include "base/thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/cpu_quota.hpp"
#include "base/errors.hpp"

namespace starchat {

namespace {

constexpr int kSpins = 4000;  // about 50 us, as long as the serial part between two loops of a step

// No fork while a thread starts: glibc frees what an ended thread had on the stack that the new one
// takes over, and a child that was forked in between would free it again.
std::mutex& starting = *new std::mutex;
[[maybe_unused]] const int at_fork =
    pthread_atfork([] { starting.lock(); }, [] { starting.unlock(); }, [] { starting.unlock(); });

#ifdef __linux__
std::string first_line(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}
#endif

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `value` differs from `old`: spins n_spins times, then sleeps (futex). Returns whether
// spinning was enough.
template <typename T>
bool wait_while(std::atomic<T>& value, T old, int n_spins = kSpins) {
  for (int i = 0; i < n_spins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return true;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
  return false;
}

}  // namespace

int available_cores() {
  int n_cores = std::max(1u, std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    std::set<std::string> cores;  // a core is named by the list of its hardware threads
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed)) continue;
      const std::string name = std::to_string(cpu);
      const std::string siblings =
          first_line("/sys/devices/system/cpu/cpu" + name + "/topology/thread_siblings_list");
      cores.insert(siblings.empty() ? name : siblings);
    }
    n_cores = static_cast<int>(cores.size());
  }
  if (const auto quota = cpu_quota()) {
    n_cores = static_cast<int>(std::min<double>(n_cores, std::ceil(*quota)));
  }
#endif
  return std::max(1, n_cores);
}

std::thread start_thread(std::function<void()> body) {
  const std::lock_guard lock(starting);
  try {
    return std::thread([body = std::move(body)] {
      // A thread's first exception needs memory of its own: where there is none, glibc aborts. So
      // it gets that memory now.
      static_cast<void>(std::current_exception());
      body();
    });
  } catch (const std::system_error& error) {
    throw OutOfMemoryError("cannot start a thread: " + std::string(error.what()) +
                           "; choose fewer n_threads, or raise this process's limits");
  }
}

void start_on_stack(size_t stack_bytes, std::function<void()> body) {
  auto call = std::make_unique<std::function<void()>>(std::move(body));
  const auto run = [](void* argument) -> void* {
    static_cast<void>(std::current_exception());  // as in start_thread
    const std::unique_ptr<std::function<void()>> call(
        static_cast<std::function<void()>*>(argument));
    (*call)();
    return nullptr;
  };
  constexpr size_t kPage = 1 << 16;  // the largest page size of a supported machine
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, (stack_bytes + kPage - 1) / kPage * kPage);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const int failure = [&] {
    const std::lock_guard lock(starting);
    return pthread_create(&thread, &attributes, run, call.get());
  }();
  pthread_attr_destroy(&attributes);
  if (failure)
    throw OutOfMemoryError("cannot start a thread with a stack of " +
                           std::to_string(stack_bytes >> 20) + " MiB: " + std::strerror(failure) +
                           "; raise this process's limits");
  static_cast<void>(call.release());  // the thread's
}

ThreadPool::ThreadPool(int n_threads) : n_used_(n_threads) {
  workers_.reserve(n_threads);
  try {
    for (int i = 1; i < n_threads; ++i) {
      workers_.push_back(start_thread([this, i] { work(i); }));
    }
  } catch (...) {
    join();
    throw;
  }
}

ThreadPool::~ThreadPool() { join(); }

void ThreadPool::join() {
  stop_ = true;
  use(n_threads());
  ++n_loops_;
  n_loops_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::use(int n) {
  n = std::clamp(n, 1, n_threads());
  if (n_used_.exchange(n) < n) n_used_.notify_all();
}

void ThreadPool::parallel_for(int64_t n_items, int64_t grain, const Body& body) {
  if (n_items <= 0) return;
  if (n_used_ <= 1 || n_items <= grain) {
    body(0, n_items, 0);
    return;
  }
  body_ = &body;
  n_items_ = n_items;
  grain_ = grain;
  n_done_ = 0;
  failed_ = false;
  const uint32_t number = loop_.load().number + 1;
  loop_ = Loop{number, 0};
  ++n_loops_;
  n_loops_.notify_all();
  take_pieces(0);
  const auto n_pieces = static_cast<int32_t>((n_items + grain - 1) / grain);
  for (int32_t done = n_done_; done < n_pieces; done = n_done_) wait_while(n_done_, done);
  loop_ = Loop{number, kClosed};
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  // A small model's loops are far apart: spinning between them would take a core away from the
  // threads that read its tokens. After 8 failures, only every 64th wait spins.
  int n_failed_spins = 0;
  while (!stop_) {
    if (const int n_used = n_used_; thread >= n_used) {
      n_used_.wait(n_used);
      continue;
    }
    const bool spins = n_failed_spins < 8 || n_failed_spins % 64 == 0;
    n_failed_spins = wait_while(n_loops_, seen, spins ? kSpins : 1) ? 0 : n_failed_spins + 1;
    seen = n_loops_;
    if (thread < n_used_) take_pieces(thread);
  }
}

void ThreadPool::take_pieces(int thread) {
  for (Loop loop = loop_;;) {
    if (loop.next == kClosed) return;
    // Read before the claim: the claim fails if these belong to another loop.
    const Body& body = *body_;
    const int64_t n_items = n_items_, grain = grain_, begin = loop.next * grain;
    if (begin >= n_items) return;
    if (!loop_.compare_exchange_weak(loop, Loop{loop.number, loop.next + 1})) continue;
    try {
      if (!failed_) body(begin, std::min(begin + grain, n_items), thread);
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
      failed_ = true;
    }
    ++n_done_;
    n_done_.notify_one();
    loop = loop_;
  }
}

}  // namespace starchat
