// What __builtin_cpu_supports does not know in every compiler.
#pragma once
#include <cpuid.h>

namespace starchat {

inline bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

inline bool has_avxvnni() {
  constexpr unsigned kAvxVnni = 1 << 4;
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kAvxVnni);
}

}  // namespace starchat
