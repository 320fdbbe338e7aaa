// What this process takes of memory, as Linux counts it.
#pragma once
#include <cstdint>
#include <optional>

namespace starchat {

struct ProcessMemory {
  int64_t space = 0, resident = 0, data = 0;  // bytes: of addresses, in memory, of RLIMIT_DATA
};

// Zeros on other systems. Allocates nothing: handlers of signals may call it.
ProcessMemory process_memory() noexcept;

// Bytes that the limits of this process leave (ulimit -v, -d), at least 0; nullopt: none is set.
std::optional<int64_t> left_by_ulimit() noexcept;

}  // namespace starchat
