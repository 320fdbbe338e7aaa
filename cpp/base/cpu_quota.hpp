// The CPU time that the control groups of this process allow it, as containers and services set it.
#pragma once
#include <optional>
#include <string>

namespace starchat {

// In cores: the least quota of this process's groups and of the groups around them, in cgroup v1
// and v2; nullopt without one. Files are read below `root`, "" but in tests.
std::optional<double> cpu_quota(const std::string& root = "");

}  // namespace starchat
