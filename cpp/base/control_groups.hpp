// The control groups of this process, in which containers and services limit what it may use.
#pragma once
#include <string>
#include <vector>

namespace starchat {

struct ControlGroup {
  std::string folder;  // of its files
  bool is_v2;
};

// The groups of this process and the groups around them, in cgroup v1 and v2, as far as they limit
// what `controller` counts ("cpu", "memory"). Folders may be missing, or listed twice. Files are
// read below `root`, "" but in tests.
std::vector<ControlGroup> control_groups(const std::string& controller, const std::string& root);

}  // namespace starchat
