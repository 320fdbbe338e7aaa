// Waiting without the GIL, so that Ctrl-C works and the interpreter can always end.
#pragma once
#include <pthread.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

namespace starchat {

// Releases the GIL while it lives. When the interpreter ends, other threads must not take the GIL
// again: Python before 3.14 would unwind their stacks, and destructors would turn that into an
// abort. Such threads sleep until the process has ended.
class GilReleased {
 public:
  GilReleased() : state_(PyEval_SaveThread()) {}
  ~GilReleased() { take(); }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

  // Takes the GIL for the time of a call.
  template <class Call>
  void with_gil(Call call) {
    take();
    struct Release {
      PyThreadState*& state;
      ~Release() { state = PyEval_SaveThread(); }
    } release{state_};
    call();
  }

  // Called by the thread that ends the interpreter, once or more. Threads that wait for the GIL get
  // it first, unless others keep it for a second.
  static void keep_other_threads_out() {
    ending_thread_ = std::this_thread::get_id();
    const GilReleased released;
    for (int i = 0; i < 1000 && n_returning_ > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

 private:
  void take() {
    ++n_returning_;
    const std::thread::id ending = ending_thread_;
    if (ending != std::thread::id() && ending != std::this_thread::get_id()) {
      --n_returning_;
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
    PyEval_RestoreThread(state_);
    --n_returning_;
  }

  PyThreadState* state_;
  inline static std::atomic<int> n_returning_ = 0;  // threads that are about to take the GIL
  // The thread that ends the interpreter; none before. Atomic, because every CloseAtExit sets it.
  inline static std::atomic<std::thread::id> ending_thread_ = std::thread::id();

  // A forked child has none of the threads that are counted, and its interpreter does not end.
  [[maybe_unused]] inline static const int at_fork_ = pthread_atfork(nullptr, nullptr, [] {
    n_returning_ = 0;
    ending_thread_ = std::thread::id();
  });
};

// Tells a Python function, or None, how far work without the GIL is, and lets Ctrl-C end the work.
class ProgressReport {
 public:
  ProgressReport(GilReleased& released, const pybind11::object& progress)
      : released_(released), progress_(progress) {}

  // Throws what the function or a signal handler raises.
  void operator()(uint64_t done, uint64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (progress_.is_none() && now - last_ < std::chrono::milliseconds(50)) return;
    last_ = now;
    released_.with_gil([&] {
      if (!progress_.is_none()) progress_(done, total);
      if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
    });
  }

 private:
  GilReleased& released_;
  const pybind11::object& progress_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// Python runs signal handlers in the main thread only: other threads need not wake up for them.
inline std::chrono::milliseconds waiting_slice() {
  using namespace std::chrono_literals;
  const auto main_thread = pybind11::module_::import("threading").attr("main_thread")();
  const auto ident = main_thread.attr("ident").cast<unsigned long>();
  return ident == PyThread_get_thread_ident() ? 50ms : 3'600'000ms;
}

// Calls wait(timeout) without the GIL until it returns true. Throws what a signal handler raises.
template <class Wait>
void wait_interruptibly(Wait wait) {
  const std::chrono::milliseconds slice = waiting_slice();
  for (;;) {
    {
      const GilReleased released;
      if (wait(slice)) return;
    }
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
  }
}

// Closes the objects that still exist when the interpreter ends. Protected by the GIL.
template <class T>
class CloseAtExit {
 public:
  static void add(const std::shared_ptr<T>& object) {
    CloseAtExit& all = prepare();
    std::erase_if(all.objects_, [](const auto& object) { return object.expired(); });
    all.forget_if_forked();
    all.objects_.push_back(object);
  }

  // At import: later there may be no memory for a function, which pybind11 does not look at.
  static CloseAtExit& prepare() {
    static auto* const all = new CloseAtExit;  // never destroyed: the process is ending
    return *all;
  }

 private:
  CloseAtExit() {
    pybind11::module_::import("atexit").attr("register")(pybind11::cpp_function([this] {
      GilReleased::keep_other_threads_out();
      forget_if_forked();
      for (const auto& weak : std::vector(objects_)) {
        if (auto object = weak.lock()) {
          const GilReleased released;
          object->close();
          object.reset();
        }
      }
    }));
  }

  void forget_if_forked() {
    if (owner_ != getpid()) objects_.clear();
    owner_ = getpid();
  }

  std::vector<std::weak_ptr<T>> objects_;
  pid_t owner_ = getpid();
};

}  // namespace starchat
