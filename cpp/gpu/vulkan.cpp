#include "gpu/vulkan.hpp"

#include <dlfcn.h>

#include <string>

#include "base/errors.hpp"
#include "base/shared_library.hpp"

namespace starchat::vk {
namespace {

#ifdef __APPLE__
constexpr const char* kLoader = "libvulkan.1.dylib";
#else
constexpr const char* kLoader = "libvulkan.so.1";
#endif

using Function = void (*)();
Function (*get_function)(Instance, const char*) = nullptr;

template <class Pointer>
void find(Instance instance, const char* name, Pointer& pointer) {
  pointer = reinterpret_cast<Pointer>(get_function(instance, name));
}

void require(bool found, const char* name) {
  if (!found)
    throw UnsupportedFeatureError(std::string(kLoader) + " has no function " + name +
                                  " of Vulkan 1.2: install a newer Vulkan loader");
}

}  // namespace

Functions& functions() {
  static Functions functions;
  return functions;
}

void open_loader() {
  if (get_function) return;
  void* library = nullptr;
  try {
    library = open_library(kLoader);
  } catch (const UnsupportedFeatureError& error) {
    throw UnsupportedFeatureError(
        "a GPU needs the Vulkan loader, which this machine lacks (" + std::string(error.what()) +
        "): install libvulkan1 (Debian, Ubuntu), vulkan-loader (Fedora) or vulkan-icd-loader "
        "(Arch) and the driver of the GPU, or use the CPU");
  }
  void* const found = dlsym(library, "vkGetInstanceProcAddr");
  require(found, "vkGetInstanceProcAddr");
  get_function = reinterpret_cast<decltype(get_function)>(found);
#define STARCHAT_VK_FIND(name, result, parameters) \
  find(nullptr, "vk" #name, functions().name);     \
  require(functions().name, "vk" #name);
  STARCHAT_VK_GLOBAL(STARCHAT_VK_FIND)
#undef STARCHAT_VK_FIND
}

void find_functions_of(Instance instance) {
#define STARCHAT_VK_FIND(name, result, parameters) \
  find(instance, "vk" #name, functions().name);    \
  require(functions().name, "vk" #name);
  STARCHAT_VK_OF_INSTANCE(STARCHAT_VK_FIND)
#undef STARCHAT_VK_FIND
#define STARCHAT_VK_FIND(name, result, parameters) find(instance, "vk" #name, functions().name);
  STARCHAT_VK_OPTIONAL(STARCHAT_VK_FIND)
#undef STARCHAT_VK_FIND
}

}  // namespace starchat::vk
