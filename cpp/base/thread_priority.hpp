// A lower priority for threads with long work, beside which others go on. On Linux alone threads
// have priorities of their own.
#pragma once
#ifdef __linux__
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace starchat {

#ifdef __linux__
inline int this_thread() { return static_cast<int>(syscall(SYS_gettid)); }
inline void lower_priority(int thread) { setpriority(PRIO_PROCESS, static_cast<id_t>(thread), 10); }
#else
inline int this_thread() { return 0; }
inline void lower_priority(int) {}
#endif

}  // namespace starchat
