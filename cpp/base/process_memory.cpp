#include "base/process_memory.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/file_descriptor.hpp"

namespace starchat {

ProcessMemory process_memory() noexcept {
  const FileDescriptor file(open("/proc/self/statm", O_RDONLY | O_CLOEXEC));
  char text[200] = "";
  if (!file.is_open() || read(file.get(), text, sizeof text - 1) <= 0) return {};
  int64_t fields[6];  // pages: space, resident, shared, text, libraries, data
  char* number = text;
  for (int64_t& field : fields) field = std::strtoll(number, &number, 10) * sysconf(_SC_PAGESIZE);
  return {fields[0], fields[1], fields[5]};
}

std::optional<int64_t> left_by_ulimit() noexcept {
  rlimit space{RLIM_INFINITY, RLIM_INFINITY}, data = space;
  getrlimit(RLIMIT_AS, &space);
  getrlimit(RLIMIT_DATA, &data);
  if (space.rlim_cur == RLIM_INFINITY && data.rlim_cur == RLIM_INFINITY) return std::nullopt;
  const ProcessMemory used = process_memory();
  const auto left = [](rlim_t limit, int64_t taken) {
    constexpr auto kMost = static_cast<rlim_t>(INT64_MAX);  // RLIM_INFINITY may be more
    return std::max<int64_t>(0, static_cast<int64_t>(std::min(limit, kMost)) - taken);
  };
  return std::min(left(space.rlim_cur, used.space), left(data.rlim_cur, used.data));
}

}  // namespace starchat
