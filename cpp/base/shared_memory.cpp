#include "base/shared_memory.hpp"

#include <utility>

#ifdef __linux__
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <thread>
#endif

namespace starchat {

SharedMemory private_memory(size_t size_bytes, const Fill& fill) {
  fill.begin();
  SharedMemory memory{{}, Arena(size_bytes)};
  fill.write(memory.arena.data());
  return memory;
}

#ifdef __linux__

namespace {

namespace fs = std::filesystem;

constexpr int kConstant = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
constexpr auto kPause = std::chrono::milliseconds(50);
// A process that has the lock is expected to show a memory file within a second.
constexpr int kMaxPauses = 20;

template <class Visit>
void for_each_in(const fs::path& folder, const Visit& visit) {
  std::error_code error;  // processes end meanwhile, or are those of other users
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    visit(it->path());
}

struct Search {
  FileDescriptor complete;
  bool is_being_filled = false;  // by a process that is alive
};

Search search(const std::string& name, size_t size_bytes) {
  Search found;
  const std::string prefix = "/memfd:" + name + ":";  // the number of the process that made it
  for_each_in("/proc", [&](const fs::path& process) {
    const std::string pid = process.filename();
    if (found.complete.is_open() || pid.find_first_not_of("0123456789") != std::string::npos)
      return;
    for_each_in(process / "fd", [&](const fs::path& entry) {
      std::error_code error;
      const std::string target = fs::read_symlink(entry, error);
      if (error || !target.starts_with(prefix)) return;
      FileDescriptor file(open(entry.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
      struct stat status{};
      // Another user, whom root sees too, must not choose what this process computes with.
      if (!file.is_open() || fstat(file.get(), &status) != 0 || status.st_uid != geteuid()) return;
      const int seals = fcntl(file.get(), F_GET_SEALS);
      if (seals < 0) return;
      if ((seals & kConstant) == kConstant) {
        if (static_cast<size_t>(status.st_size) == size_bytes) found.complete = std::move(file);
      } else if ((seals & F_SEAL_SEAL) == 0 && target.starts_with(prefix + pid + " ")) {
        found.is_being_filled = true;
      }
    });
  });
  return found;
}

class FileLock {
 public:
  explicit FileLock(int fd) : fd_(fd), is_held_(flock(fd, LOCK_EX | LOCK_NB) == 0) {
    is_supported_ = is_held_ || errno == EWOULDBLOCK;
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock() {  // a forked child may have the file too: closing it would not be enough
    if (is_held_) flock(fd_, LOCK_UN);
  }
  bool is_held() const { return is_held_; }
  bool is_supported() const { return is_supported_; }

 private:
  int fd_;
  bool is_held_, is_supported_;
};

FileDescriptor make_file(const std::string& name, size_t size_bytes) {
  constexpr unsigned kNoExec = 8;  // MFD_NOEXEC_SEAL, since Linux 6.3; some systems insist on it
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  const std::string full = name + ":" + std::to_string(getpid());
  FileDescriptor file(memfd_create(full.c_str(), kFlags | kNoExec));
  if (!file.is_open()) file = FileDescriptor(memfd_create(full.c_str(), kFlags));
  if (!file.is_open() || ftruncate(file.get(), static_cast<off_t>(size_bytes)) != 0) return {};
  return file;
}

// Without it, memory files get pages of 4 KiB on most systems. Nothing is lost where it fails. It
// clears the memory: a second for each few GB. Calls `waiting`.
void use_huge_pages(const Arena& arena, ThreadPool& threads, const std::function<void()>& waiting) {
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, since Linux 6.1
  const auto n_pages = static_cast<int64_t>(arena.size_bytes() / kHugePageBytes);
  std::atomic<bool> works = true;
  threads.parallel_for(n_pages, 8, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t page = begin; page < end && works; ++page) {
      if (thread == 0) waiting();
      std::byte* data = arena.data() + page * static_cast<int64_t>(kHugePageBytes);
      *data = {};  // an empty page is not collapsed
      if (madvise(data, kHugePageBytes, kCollapse) != 0 && errno == EINVAL) works = false;
    }
  });
}

SharedMemory filled(const std::string& name, size_t size_bytes, ThreadPool& threads,
                    const Fill& fill, const std::function<void()>& waiting) {
  fill.begin();
  {
    const Arena possible(size_bytes);
  }  // throws what a memory file would only show when used
  FileDescriptor file = make_file(name, size_bytes);
  if (!file.is_open()) return private_memory(size_bytes, {[] {}, fill.write});
  {
    const Arena writable(size_bytes, file.get(), Arena::Access::kReadWrite);
    // The file cannot be sealed while a forked child could write to it.
    madvise(writable.data(), size_bytes, MADV_DONTFORK);
    use_huge_pages(writable, threads, waiting);
    fill.write(writable.data());
  }
  if (fcntl(file.get(), F_ADD_SEALS, kConstant | F_SEAL_SEAL) != 0)
    fcntl(file.get(), F_ADD_SEALS, F_SEAL_SEAL);  // others do not wait for it, and do not map it
  Arena constant(size_bytes, file.get(), Arena::Access::kRead);
  return {MemoryFile(std::move(file)), std::move(constant)};
}

}  // namespace

SharedMemory shared_memory(const std::string& name, size_t size_bytes, int lock_file,
                           ThreadPool& threads, const Fill& fill,
                           const std::function<void()>& waiting) {
  for (int n_pauses = 0;;) {
    const FileLock lock(lock_file);
    Search found = search(name, size_bytes);
    if (found.complete.is_open()) {
      Arena constant(size_bytes, found.complete.get(), Arena::Access::kRead);
      return {MemoryFile(std::move(found.complete)), std::move(constant)};
    }
    if (found.is_being_filled) {
      n_pauses = 0;
    } else if (lock.is_held() || !lock.is_supported() || ++n_pauses > kMaxPauses) {
      return filled(name, size_bytes, threads, fill, waiting);
    }
    waiting();
    std::this_thread::sleep_for(kPause);
  }
}

MemoryFile::MemoryFile(FileDescriptor file) : file_(std::move(file)) {
  struct stat status{};
  if (fstat(file_.get(), &status) == 0) inode_ = status.st_ino;
}

MemoryFile::~MemoryFile() {
  struct stat status{};
  if (!file_.is_open()) return;
  if (fstat(file_.get(), &status) != 0 || status.st_ino != inode_) file_.release();
}

#else

SharedMemory shared_memory(const std::string&, size_t size_bytes, int, ThreadPool&,
                           const Fill& fill, const std::function<void()>&) {
  return private_memory(size_bytes, fill);
}

MemoryFile::MemoryFile(FileDescriptor file) : file_(std::move(file)) {}
MemoryFile::~MemoryFile() = default;

#endif

}  // namespace starchat
