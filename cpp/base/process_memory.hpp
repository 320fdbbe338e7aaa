// What this process takes of memory, as Linux counts it.
#pragma once
#include <cstdint>

namespace starchat {

struct ProcessMemory {
  int64_t space = 0, resident = 0, data = 0;  // bytes: of addresses, in memory, of RLIMIT_DATA
};

// Zeros on other systems. Allocates nothing: handlers of signals may call it.
ProcessMemory process_memory() noexcept;

}  // namespace starchat
