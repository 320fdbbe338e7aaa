// How much more memory this process can take before the system ends it or refuses.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace starchat {

struct FreeMemory {
  uint64_t bytes;
  std::string source;  // what says so, for messages
};

// The least of: MemAvailable, which counts files in the page cache as free, but no swap; what the
// limits of the control groups leave (v1, v2), where cached files count as free, too; and what
// ulimit leaves (-v, -d). nullopt where nothing is known, as outside of Linux. Files are read below
// `root`, "" but in tests; ulimit's are those of the process.
std::optional<FreeMemory> free_memory(const std::string& root = "");

}  // namespace starchat
