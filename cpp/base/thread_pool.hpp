// A fixed pool of threads for parallel loops. The caller takes part. Threads claim small pieces of
// the work, so that a slow core does not delay the others. The result of a piece does not depend on
// the thread that computes it.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace starchat {

// The number of physical cores that this process may use, given its affinity and its container's
// CPU quota; at least 1.
int available_cores();

// Throws OutOfMemoryError if the system cannot start another thread.
std::thread start_thread(std::function<void()> body);

// Calls body, which must not throw, in a thread with a stack of stack_bytes that nobody joins.
// OutOfMemoryError as above. Only the part of the stack that is used takes memory.
void start_on_stack(size_t stack_bytes, std::function<void()> body);

class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const { return static_cast<int>(workers_.size()) + 1; }
  // The next loops are divided among n threads at most; the others sleep. By the caller of loops.
  void use(int n);

  // Calls body(begin, end, thread) over pieces of [0, n_items) of at most `grain` items, with
  // thread in [0, n_threads). After an exception no further piece begins; rethrows the first one.
  // One caller at a time.
  using Body = std::function<void(int64_t begin, int64_t end, int thread)>;
  void parallel_for(int64_t n_items, int64_t grain, const Body& body);

 private:
  // A running thread claims one piece at a time while the loop is open. So the caller waits only
  // for pieces that are being computed, never for a worker that has no core to run on.
  struct alignas(8) Loop {  // aligned as a word: clang makes it lock-free only then
    uint32_t number;        // lets a late worker see that the loop has changed
    int32_t next;           // the piece to claim next, or kClosed
  };
  static constexpr int32_t kClosed = -1;

  void work(int thread);
  void join();
  void take_pieces(int thread);

  std::vector<std::thread> workers_;
  std::atomic<int> n_used_;           // threads from here on sleep until it changes
  std::atomic<uint32_t> n_loops_{0};  // workers sleep until it changes
  std::atomic<bool> stop_{false};

  std::atomic<Loop> loop_{Loop{0, kClosed}};
  std::atomic<const Body*> body_{nullptr};  // constant while the loop is open
  std::atomic<int64_t> n_items_{0}, grain_{1};
  std::atomic<int32_t> n_done_{0};  // pieces
  std::atomic<bool> failed_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace starchat
