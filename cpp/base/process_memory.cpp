#include "base/process_memory.hpp"

#include <fcntl.h>
#include <unistd.h>

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

}  // namespace starchat
