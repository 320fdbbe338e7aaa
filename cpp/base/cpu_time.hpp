// CPU time of threads: unlike the time of day, it is not longer on a busy machine.
#pragma once
#include <pthread.h>
#include <time.h>

namespace starchat {

inline double cpu_seconds(clockid_t clock = CLOCK_THREAD_CPUTIME_ID) {
  timespec time{};
  if (clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Of the calling thread, for other threads.
inline clockid_t cpu_clock() {
  clockid_t clock{};
  pthread_getcpuclockid(pthread_self(), &clock);
  return clock;
}

}  // namespace starchat
