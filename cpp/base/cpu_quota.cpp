#include "base/cpu_quota.hpp"

#include <algorithm>
#include <fstream>

#include "base/control_groups.hpp"

namespace starchat {
namespace {

// In cores. v2's file holds "quota period" or "max period", v1's quota is -1 for none; both are in
// microseconds.
std::optional<double> quota_of(const ControlGroup& group) {
  double quota = 0, period = 0;
  if (group.is_v2) {
    std::ifstream(group.folder + "/cpu.max") >> quota >> period;
  } else {
    std::ifstream(group.folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(group.folder + "/cpu.cfs_period_us") >> period;
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

}  // namespace

std::optional<double> cpu_quota(const std::string& root) {
  std::optional<double> least;
  for (const ControlGroup& group : control_groups("cpu", root)) {
    const std::optional<double> quota = quota_of(group);
    if (quota) least = least ? std::min(*least, *quota) : *quota;
  }
  return least;
}

}  // namespace starchat
