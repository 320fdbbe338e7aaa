// Waiting without the GIL, so that Ctrl-C works and the interpreter can always end.
#pragma once
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

namespace starchat {

// Signal handlers run in the main thread only: the others need not wake up for them.
inline std::chrono::milliseconds waiting_slice() {
  using namespace std::chrono_literals;
  const auto main_thread = pybind11::module_::import("threading").attr("main_thread")();
  const auto ident = main_thread.attr("ident").cast<unsigned long>();
  return ident == PyThread_get_thread_ident() ? 50ms : 3'600'000ms;
}

// Calls wait(timeout) without the GIL until it returns true; throws what a signal handler raises.
template <class Wait>
void wait_interruptibly(Wait wait) {
  const std::chrono::milliseconds slice = waiting_slice();
  for (;;) {
    {
      const pybind11::gil_scoped_release release;
      if (wait(slice)) return;
    }
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
  }
}

// Closes what still lives when the interpreter ends, so that no thread is left inside a wait that
// would take the GIL of an interpreter that is gone. Guarded by the GIL.
template <class T>
class CloseAtExit {
 public:
  static void add(const std::shared_ptr<T>& object) {
    static auto* const objects = new CloseAtExit;  // never destroyed: the process is ending
    std::erase_if(objects->objects_, [](const auto& object) { return object.expired(); });
    objects->forget_if_forked();
    objects->objects_.push_back(object);
  }

 private:
  CloseAtExit() {
    pybind11::module_::import("atexit").attr("register")(pybind11::cpp_function([this] {
      forget_if_forked();
      for (const auto& weak : std::vector(objects_)) {
        if (auto object = weak.lock()) {
          const pybind11::gil_scoped_release release;
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
