#include "grammar/memory_room.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "base/process_memory.hpp"

namespace starchat {
namespace {

// What compilations that run now may still take.
std::atomic<int64_t> g_reserved_bytes = 0;

void check(int64_t bytes, int64_t others) {
  rlimit space{RLIM_INFINITY, RLIM_INFINITY}, data = space;
  getrlimit(RLIMIT_AS, &space);
  getrlimit(RLIMIT_DATA, &data);
  if (space.rlim_cur == RLIM_INFINITY && data.rlim_cur == RLIM_INFINITY) return;
  const ProcessMemory used = process_memory();
  const auto check_one = [&](rlim_t limit, int64_t taken) {
    if (limit == RLIM_INFINITY) return;
    const int64_t left = static_cast<int64_t>(limit) - taken - others;
    if (left < bytes)
      throw OutOfMemoryError("compiling this constraint needs " + format_number(bytes >> 20) +
                                 " MiB, but the limits of this process's memory leave " +
                                 format_number(std::max<int64_t>(left, 0) >> 20) +
                                 " MiB: raise them (ulimit -v, -d), or simplify it",
                             {.limit = std::max<int64_t>(left, 0), .got = bytes});
  };
  check_one(space.rlim_cur, used.space);
  check_one(data.rlim_cur, used.data);
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
