#include "format/model_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/errors.hpp"

namespace starchat {
namespace {

[[noreturn]] void fail_access(const std::string& path, const char* action, int error,
                              const char* remedy) {
  throw FileAccessError(path + ": " + action + ": " + std::generic_category().message(error) +
                        "; " + remedy);
}

}  // namespace

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

const TensorInfo& ModelFile::tensor(std::string_view name) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const TensorInfo& info) { return info.name == name; });
  if (found == tensors.end()) {
    throw CorruptFileError(path + ": tensor " + std::string(name) + " is missing among the " +
                           std::to_string(tensors.size()) + " in the file");
  }
  return *found;
}

void ModelFile::read(uint64_t offset, std::span<std::byte> out) const {
  constexpr size_t kMaxRead = size_t{1} << 30;  // macOS refuses 2 GiB and more in one call
  while (!out.empty()) {
    const ssize_t n =
        ::pread(file.get(), out.data(), std::min(out.size(), kMaxRead), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      fail_access(path, "cannot be read", errno, "check the disk and load the model again");
    }
    if (n == 0) {
      throw CorruptFileError(path + ": ends at byte " + std::to_string(offset) + ", had " +
                             std::to_string(size_bytes) +
                             " bytes when it was opened: it was cut or replaced while in use; "
                             "load the model again");
    }
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
}

ModelFile open_model_file(const std::string& path) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    throw FileAccessError("the path of the model file is empty or holds a zero byte; check it");
  }
  // O_NONBLOCK: opening a pipe returns at once, to be refused below; regular files ignore it.
  int fd;
  do {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    const int error = errno;
    fail_access(path, "cannot be opened", error,
                error == EACCES ? "ask its owner for permission to read it" : "check the path");
  }
  ModelFile model;
  model.path = path;
  model.file = FileDescriptor(fd);
  struct stat status{};
  if (::fstat(fd, &status) != 0) fail_access(path, "cannot be examined", errno, "check the path");
  if (S_ISDIR(status.st_mode)) {
    throw FileAccessError(path + ": is a folder; name the model file in it");
  }
  if (!S_ISREG(status.st_mode)) {
    throw FileAccessError(path + ": is a pipe or a device; a model is read from a regular file");
  }
  model.size_bytes = static_cast<uint64_t>(status.st_size);
  return model;
}

}  // namespace starchat
