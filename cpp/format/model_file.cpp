#include "format/model_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "base/errors.hpp"

namespace starchat {
namespace {

[[noreturn]] void fail_access(const std::string& path, const char* action, int error,
                              const char* remedy) {
  throw FileAccessError(path + ": " + action + ": " + std::generic_category().message(error) +
                        "; " + remedy);
}

const char* remedy_of_open(int error) {
  switch (error) {
    case EACCES:
      return "ask its owner for permission to read it";
    case EMFILE:
      return "close files or sockets of this process, or raise its limit (`ulimit -n`)";
    case ENFILE:
      return "the whole system's limit is reached: close files of other processes, or raise it "
             "(`sysctl fs.file-max`)";
    default:
      return "check the path";
  }
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
    fail_access(path, "cannot be opened", error, remedy_of_open(error));
  }
  return FileDescriptor(fd);
}

#ifdef __APPLE__
#define st_mtim st_mtimespec
#define st_ctim st_ctimespec
#endif

int64_t to_ns(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

FileIdentity identity_of(const struct stat& status) {
  return {static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino),
          static_cast<uint64_t>(status.st_size), to_ns(status.st_mtim)};
}

}  // namespace

FileIdentity identity_of(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    fail_access(path, "cannot be examined", errno, "check the path");
  }
  return identity_of(status);
}

void wait_until_writes_show(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return;
  constexpr int64_t kTickNs = 10'000'000;  // the longest one of Linux, at 100 Hz
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t age_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() - to_ns(status.st_mtim);
  if (age_ns >= 0 && age_ns <= kTickNs)
    std::this_thread::sleep_for(std::chrono::nanoseconds(2 * kTickNs - age_ns));
}

InputFile::InputFile(const std::string& path) : InputFile(path, open_to_read(path)) {}

InputFile::InputFile(std::string path, FileDescriptor fd)
    : path_(std::move(path)), fd_(std::move(fd)) {
  struct stat status{};
  if (::fstat(fd_.get(), &status) != 0) {
    fail_access(path_, "cannot be examined", errno, "check the path");
  }
  if (S_ISDIR(status.st_mode)) {
    throw FileAccessError(path_ + ": is a folder; name the model file in it");
  }
  if (!S_ISREG(status.st_mode)) {
    throw FileAccessError(path_ + ": is a pipe or a device; a model is read from a regular file");
  }
  identity_ = identity_of(status);
  changed_ns_ = to_ns(status.st_ctim);
}

void InputFile::check_unchanged() const {
  struct stat status{};
  if (::fstat(fd_.get(), &status) == 0 && identity_of(status) == identity_ &&
      to_ns(status.st_ctim) == changed_ns_)
    return;
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

std::vector<FileIdentity> ModelFile::identities() const {
  std::vector<FileIdentity> all;
  for (const InputFile& file : files) all.push_back(file.identity());
  return all;
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
  if (tensor.is_made()) return make_rows(tensor, first, out);
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
