#include "grammar/memory_room.hpp"

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>

#include "base/errors.hpp"
#include "base/format_number.hpp"
#include "base/process_memory.hpp"

namespace starchat {
namespace {

// What compilations that run now may still take.
std::atomic<int64_t> g_reserved_bytes = 0;

void check(int64_t bytes, int64_t others) {
  const std::optional<int64_t> room = left_by_ulimit();
  if (!room) return;
  const int64_t left = std::max<int64_t>(0, *room - others);
  if (left < bytes)
    throw OutOfMemoryError("compiling this constraint needs " + format_number(bytes >> 20) +
                               " MiB, but the limits of this process's memory leave " +
                               format_number(left >> 20) +
                               " MiB: raise them (ulimit -v, -d), or simplify it",
                           {.limit = left, .got = bytes});
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
