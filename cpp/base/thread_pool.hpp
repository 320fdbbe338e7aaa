// A fixed team of threads for loops: the caller takes part, work is handed out in small pieces
// so that a slow core holds nobody up. Who computes a piece never changes its result.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace starchat {

// The physical cores that this process may use: affinity and a container's quota respected. At
// least 1.
int available_cores();

class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end, thread) over pieces of [0, n_items) of at most `grain` items, with
  // thread in [0, n_threads). Rethrows the first exception. One caller at a time.
  using Body = std::function<void(int64_t begin, int64_t end, int thread)>;
  void parallel_for(int64_t n_items, int64_t grain, const Body& body);

 private:
  void work(int thread);
  void take_pieces(int thread);

  std::vector<std::thread> workers_;
  std::atomic<uint32_t> generation_{0};
  std::atomic<int> n_busy_{0};
  std::atomic<bool> stop_{false};

  const Body* body_ = nullptr;
  int64_t n_items_ = 0, grain_ = 1;
  std::atomic<int64_t> next_{0};
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace starchat
