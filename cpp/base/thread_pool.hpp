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

// Throws OutOfMemoryError where the machine gives no more threads.
std::thread start_thread(std::function<void()> body);

// Calls body in a thread with a stack of that size, and waits for it. Rethrows what it throws;
// OutOfMemoryError as above. Memory is only taken as far as the stack grows.
void run_on_stack(size_t stack_bytes, const std::function<void()>& body);

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
  // A piece can be claimed while a loop is open, and only by a thread that is running: the caller
  // waits for pieces in work, never for a worker that other programs keep from its core.
  struct Loop {
    uint32_t number;  // so that a late worker cannot mistake one loop for another
    int32_t next;     // the piece to be claimed, or kClosed
  };
  static constexpr int32_t kClosed = -1;

  void work(int thread);
  void join();
  void take_pieces(int thread);

  std::vector<std::thread> workers_;
  std::atomic<uint32_t> n_loops_{0};  // what sleeping workers watch
  std::atomic<bool> stop_{false};

  std::atomic<Loop> loop_{Loop{0, kClosed}};
  std::atomic<const Body*> body_{nullptr};  // constant while the loop is open
  std::atomic<int64_t> n_items_{0}, grain_{1};
  std::atomic<int32_t> n_done_{0};  // pieces
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace starchat
