// Divides the cores among the engines of this process that compute at the same time. With a thread
// for each core in every engine, each would wait at the end of every loop for threads that have no
// core. A forked child starts with no engines.
#pragma once

namespace starchat {

class CoreShare {
 public:
  // Of an engine that has n_threads, on n_cores.
  CoreShare(int n_threads, int n_cores) : n_threads_(n_threads), n_cores_(n_cores) {}
  ~CoreShare() { end(); }
  CoreShare(const CoreShare&) = delete;
  CoreShare& operator=(const CoreShare&) = delete;

  // Counts the engine as computing until end(). Returns how many threads it should use now: all of
  // its own if it is alone, or an equal part of the cores, or what others leave if that is more.
  int begin();
  void end();

 private:
  const int n_threads_, n_cores_;
  bool counts_ = false;
};

}  // namespace starchat
