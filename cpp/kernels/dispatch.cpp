#include <cstdlib>

#include "base/errors.hpp"
#if defined(__x86_64__)
#include "base/x86_features.hpp"
#endif
#include "kernels/kernels.hpp"

namespace starchat {

const Kernels& scalar_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
#ifdef STARCHAT_AVXVNNI
const Kernels& avxvnni_kernels();
const Kernels& avxvnni_kernels_of_avx512();  // the same source
#endif
const Kernels& avx512_kernels();
#elif defined(__aarch64__)
const Kernels& neon_kernels();
#endif

namespace {

#if defined(__x86_64__)
bool has_avx512_vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> found{&scalar_kernels()};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
    found.push_back(&avx2_kernels());
#ifdef STARCHAT_AVXVNNI
    if (has_avxvnni()) {
      found.push_back(&avxvnni_kernels());
    } else if (has_avx512_vnni()) {
      found.push_back(&avxvnni_kernels_of_avx512());
    }
#endif
    if (has_avx512_vnni()) found.push_back(&avx512_kernels());
  }
#elif defined(__aarch64__)
  found.push_back(&neon_kernels());
#endif
  return found;
}

}  // namespace

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* kernels : runnable()) names.emplace_back(kernels->name);
  return names;
}

const Kernels* find_kernels(std::string_view name) {
  for (const Kernels* kernels : runnable()) {
    if (name == kernels->name) return kernels;
  }
  return nullptr;
}

const Kernels& kernels_named(std::string_view name) {
  if (const Kernels* kernels = find_kernels(name)) return *kernels;
  throw UnsupportedFeatureError("instruction set " + std::string(name) + ": not on this machine");
}

const Kernels& select_kernels() {
  const char* wanted = std::getenv("STARCHAT_ISA");
  if (wanted == nullptr || *wanted == '\0') return *runnable().back();
  if (const Kernels* kernels = find_kernels(wanted)) return *kernels;
  std::string names;
  for (const auto& name : available_instruction_sets()) names += (names.empty() ? "" : ", ") + name;
  throw UnsupportedFeatureError("STARCHAT_ISA=" + std::string(wanted) +
                                ": this machine and build can run " + names +
                                "; choose one of these or unset the variable");
}

}  // namespace starchat
