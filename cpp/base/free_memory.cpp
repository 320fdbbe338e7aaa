#include "base/free_memory.hpp"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <sstream>
#include <string_view>

#include "base/control_groups.hpp"
#include "base/process_memory.hpp"

namespace starchat {
namespace {

// The number in a file; nullopt without one, as in a file that says "max".
std::optional<uint64_t> number_in(const std::string& path) {
  uint64_t number = 0;
  if (std::ifstream(path) >> number) return number;
  return std::nullopt;
}

// The number of a line "name number …" or "name: number …".
std::optional<uint64_t> field_of(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name)) continue;
    std::istringstream rest(line.substr(name.size()));
    if (rest.peek() == ':') rest.get();
    uint64_t number = 0;
    if (rest.peek() == ' ' && rest >> number) return number;
  }
  return std::nullopt;
}

// v2: memory.high does not end a process that is beyond it, but slows it until it seems to hang.
std::optional<FreeMemory> left_in(const ControlGroup& group, const std::string& root) {
  const std::string file = group.folder + "/memory.", stat = file + "stat";
  const std::string total = group.is_v2 ? "" : "total_";  // v1: groups within included
  uint64_t limit = std::numeric_limits<uint64_t>::max();
  const auto take = [&](std::optional<uint64_t> bytes) {
    limit = std::min(limit, bytes.value_or(limit));
  };
  if (group.is_v2) {
    take(number_in(file + "max"));
    take(number_in(file + "high"));
  } else {
    take(number_in(file + "limit_in_bytes"));
    take(field_of(stat, "hierarchical_memory_limit"));  // of groups that a container does not see
  }
  const auto used = number_in(file + (group.is_v2 ? "current" : "usage_in_bytes"));
  if (limit == std::numeric_limits<uint64_t>::max() || !used) return std::nullopt;
  const uint64_t cached = field_of(stat, total + "inactive_file").value_or(0) +
                          field_of(stat, total + "active_file").value_or(0);
  const uint64_t taken = *used - std::min(*used, cached);
  std::string folder = group.folder.substr(root.size());
  if (folder.ends_with('/')) folder.pop_back();
  return FreeMemory{limit - std::min(limit, taken), "the limit of the control group " + folder};
}

}  // namespace

std::optional<FreeMemory> free_memory(const std::string& root) {
  std::optional<FreeMemory> least;
  const auto take = [&](const std::optional<FreeMemory>& left) {
    if (left && (!least || left->bytes < least->bytes)) least = left;
  };
  if (const auto kib = field_of(root + "/proc/meminfo", "MemAvailable"))
    take(FreeMemory{*kib << 10, "MemAvailable in /proc/meminfo"});
  for (const ControlGroup& group : control_groups("memory", root)) take(left_in(group, root));
  if (const auto bytes = left_by_ulimit())
    take(FreeMemory{static_cast<uint64_t>(*bytes), "ulimit -v or -d"});
  return least;
}

}  // namespace starchat
