#include "base/control_groups.hpp"

#include <fstream>
#include <sstream>
#include <string_view>

namespace starchat {
namespace {

// A hierarchy of groups: `group` is the group that is mounted at `folder`.
struct Mount {
  bool is_v2;
  std::string folder, group;
};

bool has_word(const std::string& list, std::string_view word) {
  std::istringstream words(list);
  for (std::string item; std::getline(words, item, ',');) {
    if (item == word) return true;
  }
  return false;
}

// The group of this process in each version, "/" if it is not said. Lines of /proc/self/cgroup are
// "number:controllers:group", and number 0 without controllers is v2.
struct Groups {
  std::string v1 = "/", v2 = "/";

  Groups(const std::string& controller, const std::string& root) {
    std::ifstream file(root + "/proc/self/cgroup");
    for (std::string number, controllers, group; std::getline(file, number, ':') &&
                                                 std::getline(file, controllers, ':') &&
                                                 std::getline(file, group);) {
      if (controllers.empty()) v2 = group;
      if (has_word(controllers, controller)) v1 = group;
    }
  }
};

// Lines of /proc/self/mountinfo are "id parent device group folder options … - type source
// options". The usual folders are added, as a container may have copies of the files there.
std::vector<Mount> mounts(const std::string& controller, const std::string& root) {
  std::vector<Mount> found = {{true, "/sys/fs/cgroup", "/"},
                              {true, "/sys/fs/cgroup/unified", "/"},
                              {false, "/sys/fs/cgroup/" + controller, "/"}};
  if (controller == "cpu") found.push_back({false, "/sys/fs/cgroup/cpu,cpuacct", "/"});
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream before(line), after(line.substr(dash + 3));
    std::string skipped, group, folder, type, options;
    before >> skipped >> skipped >> skipped >> group >> folder;
    after >> type >> skipped >> options;
    if (type == "cgroup2") found.push_back({true, folder, group});
    if (type == "cgroup" && has_word(options, controller)) found.push_back({false, folder, group});
  }
  return found;
}

}  // namespace

std::vector<ControlGroup> control_groups(const std::string& controller, const std::string& root) {
  const Groups groups(controller, root);
  std::vector<ControlGroup> found;
  for (const Mount& mount : mounts(controller, root)) {
    // Below the mount; nothing where the process's group is outside it.
    std::string path = mount.is_v2 ? groups.v2 : groups.v1;
    if (mount.group != "/") {
      const bool is_inside = path == mount.group || path.starts_with(mount.group + "/");
      path = is_inside ? path.substr(mount.group.size()) : "";
    }
    for (;; path.resize(path.rfind('/'))) {
      found.push_back({root + mount.folder + path, mount.is_v2});
      if (path.find('/') == std::string::npos) break;
    }
  }
  return found;
}

}  // namespace starchat
