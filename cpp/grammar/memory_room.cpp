#include "grammar/memory_room.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <string>

#include "base/errors.hpp"
#include "base/format_number.hpp"

namespace starchat {
namespace {

// What compilations that run now may still take.
std::atomic<int64_t> g_reserved_bytes = 0;

void check(int64_t bytes, int64_t others) {
  rlimit space{RLIM_INFINITY, RLIM_INFINITY}, data = space;
  getrlimit(RLIMIT_AS, &space);
  getrlimit(RLIMIT_DATA, &data);
  if (space.rlim_cur == RLIM_INFINITY && data.rlim_cur == RLIM_INFINITY) return;
  long pages[6] = {};  // size, resident, shared, text, lib, data
  if (std::FILE* file = std::fopen("/proc/self/statm", "re")) {
    for (long& count : pages)
      if (std::fscanf(file, "%ld", &count) != 1) break;
    std::fclose(file);
  }
  const auto check_one = [&](rlim_t limit, long n_pages) {
    if (limit == RLIM_INFINITY) return;
    const int64_t left =
        static_cast<int64_t>(limit) - int64_t{n_pages} * sysconf(_SC_PAGESIZE) - others;
    if (left < bytes)
      throw OutOfMemoryError("compiling this constraint needs " + format_number(bytes >> 20) +
                                 " MiB, but the limits of this process's memory leave " +
                                 format_number(std::max<int64_t>(left, 0) >> 20) +
                                 " MiB: raise them (ulimit -v, -d), or simplify it",
                             {.limit = std::max<int64_t>(left, 0), .got = bytes});
  };
  check_one(space.rlim_cur, pages[0]);
  check_one(data.rlim_cur, pages[5]);
}

}  // namespace

MemoryRoom::MemoryRoom(int64_t peak_bytes) : bytes_(peak_bytes + peak_bytes / 4 + (4 << 20)) {
  const int64_t others = g_reserved_bytes.fetch_add(bytes_);
  try {
    check(bytes_, others);
  } catch (...) {
    g_reserved_bytes -= bytes_;
    throw;
  }
}

MemoryRoom::~MemoryRoom() { g_reserved_bytes -= bytes_; }

}  // namespace starchat
