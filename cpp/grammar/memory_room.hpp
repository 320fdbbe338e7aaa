// Refuses work that this process's limits on memory (ulimit -v, -d) leave no room for: where an
// allocation fails in llguidance, it aborts the process.
#pragma once
#include <cstdint>

namespace starchat {

// Room for a compilation in this process, while it lives. Throws OutOfMemoryError.
class MemoryRoom {
 public:
  explicit MemoryRoom(int64_t peak_bytes);
  ~MemoryRoom();
  MemoryRoom(const MemoryRoom&) = delete;

 private:
  int64_t bytes_;
};

}  // namespace starchat
