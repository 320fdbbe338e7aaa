// Read-only memory that processes of one user have together: one fills it, the others map it. It is
// a sealed memory file, which processes find in each other's /proc/PID/fd. So there is nothing to
// clean up: the system frees it with the last process, however that ends. Needs Linux; elsewhere,
// and where /proc or memory files are refused, every process fills memory of its own.
#pragma once
#include <cstddef>
#include <functional>
#include <string>

#include "base/arena.hpp"
#include "base/file_descriptor.hpp"
#include "base/thread_pool.hpp"

namespace starchat {

// A memory file that stays open, so that others find it. Closes nothing that is another file by
// now: programs that become daemons close every file.
class MemoryFile {
 public:
  MemoryFile() = default;  // none: the memory is private
  explicit MemoryFile(FileDescriptor file);
  MemoryFile(MemoryFile&&) = default;
  MemoryFile& operator=(MemoryFile&&) = default;
  ~MemoryFile();

 private:
  FileDescriptor file_;
  unsigned long inode_ = 0;
};

struct SharedMemory {
  MemoryFile file;
  Arena arena;
};

struct Fill {
  std::function<void()> begin;  // called before any memory is taken; may throw
  std::function<void(std::byte* data)> write;
};

SharedMemory private_memory(size_t size_bytes, const Fill& fill);  // throws OutOfMemoryError

// The memory that a process of this user filled under the same name; or, if there is none, memory
// that `fill` writes. The name says what the bytes are and where they are from. lock_file: an open
// file that such processes agree on; it is locked (flock) while one of them fills. The others call
// waiting() 20 times a second meanwhile, which may throw, and the one that fills does while it
// makes the memory. Throws OutOfMemoryError.
SharedMemory shared_memory(const std::string& name, size_t size_bytes, int lock_file,
                           ThreadPool& threads, const Fill& fill,
                           const std::function<void()>& waiting);

}  // namespace starchat
