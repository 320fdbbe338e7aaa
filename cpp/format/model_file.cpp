#include "format/model_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "base/errors.hpp"

namespace starchat {
namespace {

[[noreturn]] void fail_access(const std::string& path, const char* action, int error,
                              const char* remedy) {
  throw FileAccessError(path + ": " + action + ": " + std::generic_category().message(error) +
                        "; " + remedy);
}

FileDescriptor open_to_read(const std::string& path) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    throw FileAccessError("the path of the model file is empty or holds a zero byte; check it");
  }
  // O_NONBLOCK: opening a pipe returns at once, to be refused later; regular files ignore it.
  int fd;
  do {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    const int error = errno;
    fail_access(path, "cannot be opened", error,
                error == EACCES ? "ask its owner for permission to read it" : "check the path");
  }
  return FileDescriptor(fd);
}

FileIdentity identity_of(const struct stat& status) {
#ifdef __APPLE__
  const timespec& mtime = status.st_mtimespec;
#else
  const timespec& mtime = status.st_mtim;
#endif
  return {static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino),
          static_cast<uint64_t>(status.st_size),
          int64_t{mtime.tv_sec} * 1'000'000'000 + mtime.tv_nsec};
}

}  // namespace

InputFile::InputFile(const std::string& path) : path_(path), fd_(open_to_read(path)) {
  struct stat status{};
  if (::fstat(fd_.get(), &status) != 0) {
    fail_access(path, "cannot be examined", errno, "check the path");
  }
  if (S_ISDIR(status.st_mode)) {
    throw FileAccessError(path + ": is a folder; name the model file in it");
  }
  if (!S_ISREG(status.st_mode)) {
    throw FileAccessError(path + ": is a pipe or a device; a model is read from a regular file");
  }
  identity_ = identity_of(status);
}

void InputFile::check_unchanged() const {
  struct stat status{};
  if (::fstat(fd_.get(), &status) == 0 && identity_of(status) == identity_) return;
  throw CorruptFileError(path_ +
                         ": was written to while it was being read; load the model again when it "
                         "is complete");
}

void InputFile::read(uint64_t offset, std::span<std::byte> out) const {
  constexpr size_t kMaxRead = size_t{1} << 30;  // macOS refuses 2 GiB and more in one call
  while (!out.empty()) {
    const ssize_t n =
        ::pread(fd_.get(), out.data(), std::min(out.size(), kMaxRead), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      fail_access(path_, "cannot be read", errno, "check the disk and load the model again");
    }
    if (n == 0) {
      throw CorruptFileError(path_ + ": ends at byte " + std::to_string(offset) + ", had " +
                             std::to_string(size_bytes()) +
                             " bytes when it was opened: it was cut or replaced while in use; "
                             "load the model again");
    }
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
}

int64_t Tensor::n_rows() const {
  int64_t n = 0;
  for (const Source& source : sources) n += source.n_rows;
  return n;
}

const Tensor* ModelFile::find(Role role, int32_t layer) const {
  const auto found = std::ranges::find_if(
      tensors, [&](const Tensor& t) { return t.role == role && t.layer == layer; });
  return found == tensors.end() ? nullptr : &*found;
}

const Tensor& ModelFile::tensor(Role role, int32_t layer) const {
  if (const Tensor* found = find(role, layer)) return *found;
  throw std::logic_error(path() + ": its reader left out the tensor of role " +
                         std::to_string(static_cast<int>(role)) + ", layer " +
                         std::to_string(layer));
}

uint64_t ModelFile::n_params() const {
  uint64_t n = 0;
  for (const Tensor& t : tensors) n += static_cast<uint64_t>(t.n_rows() * t.n_cols);
  return n;
}

uint64_t ModelFile::weight_bytes() const {
  uint64_t n = 0;
  for (const Tensor& t : tensors) n += static_cast<uint64_t>(t.n_rows()) * t.row_bytes();
  return n;
}

void ModelFile::read_rows(const Tensor& tensor, int64_t first, std::span<std::byte> out) const {
  const uint64_t row_bytes = tensor.row_bytes();
  for (const Source& source : tensor.sources) {
    if (out.empty()) return;
    if (first >= source.n_rows) {
      first -= source.n_rows;
      continue;
    }
    const size_t n = std::min<size_t>((source.n_rows - first) * row_bytes, out.size());
    files[source.file].read(source.offset + first * row_bytes, out.first(n));
    out = out.subspan(n);
    first = 0;
  }
}

}  // namespace starchat
