#include "base/shared_library.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <new>
#ifdef __linux__
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#endif

#include "base/errors.hpp"
#include "base/file_descriptor.hpp"

namespace starchat {
namespace {

// The copy that this process made, for all its engines.
struct Copy {
  std::mutex mutex;
  std::string path;
  void* handle = nullptr;
};

bool is_forked = false;

Copy& copy = *new Copy;  // never destroyed, like its library

[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
  is_forked = true;
  new (&copy) Copy;  // a thread of the parent may have held the mutex
});

#ifdef __linux__

// Null where a policy of the system forbids it.
void* open_copy(const std::string& path) {
  const FileDescriptor from(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const FileDescriptor to(memfd_create("starchat-library", MFD_CLOEXEC));
  struct stat status{};
  if (!from.is_open() || !to.is_open() || fstat(from.get(), &status) != 0) return nullptr;
  for (off_t done = 0; done < status.st_size;) {
    if (sendfile(to.get(), from.get(), &done, static_cast<size_t>(status.st_size - done)) <= 0)
      return nullptr;
  }
  // A name that no parent has used: the loader returns what it knows by the same name.
  const std::string name = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(to.get());
  return dlopen(name.c_str(), RTLD_NOW);
}

#else

void* open_copy(const std::string&) { return nullptr; }

#endif

}  // namespace

void* open_library(const std::string& path) {
  if (is_forked) {
    const std::lock_guard lock(copy.mutex);
    if (copy.handle && copy.path == path) return copy.handle;
    if (dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD)) {
      if (void* handle = open_copy(path)) {
        copy.path = path;
        return copy.handle = handle;
      }
    }
  }
  if (void* handle = dlopen(path.c_str(), RTLD_NOW)) return handle;
  const std::string problem = path + ": cannot be opened: " + dlerror();
  if (problem.ends_with(std::strerror(ENOMEM))) throw OutOfMemoryError(problem);
  throw UnsupportedFeatureError(problem);
}

}  // namespace starchat
