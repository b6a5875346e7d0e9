#include "isa.h"

#ifdef TORCHEXT_X86_KERNELS
#include <cpuid.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>

namespace torchext::cpu {
namespace {
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

bool runs([[maybe_unused]] Isa isa) {
#ifdef TORCHEXT_X86_KERNELS
  __builtin_cpu_init();
  if (isa == Isa::kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (isa == Isa::kAvx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#endif
  return isa == Isa::kBaseline;
}

Isa widest() {
  for (Isa isa : {Isa::kAvx512, Isa::kAvx2})
    if (runs(isa)) return isa;
  return Isa::kBaseline;
}

Isa& chosen() {
  static Isa isa = widest();
  return isa;
}
// Vendor and family as CPUID tells them; Intel's microarchitectures differ by model within one family.
std::string family_name() {
#ifdef TORCHEXT_X86_KERNELS
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return "unknown";
  char vendor[13] = {};
  std::memcpy(vendor, &b, 4);
  std::memcpy(vendor + 4, &d, 4);
  std::memcpy(vendor + 8, &c, 4);
  if (!__get_cpuid(1, &a, &b, &c, &d)) return "unknown";
  const unsigned family = (a >> 8 & 15) + (a >> 20 & 255), model = (a >> 4 & 15) | (a >> 12 & 240);
  const bool amd = std::strcmp(vendor, "AuthenticAMD") == 0, intel = std::strcmp(vendor, "GenuineIntel") == 0;
  char name[40];
  if (amd)
    std::snprintf(name, sizeof name, "amd-%02xh", family);
  else
    std::snprintf(name, sizeof name, "%s-%02xh-%02xh", intel ? "intel" : "x86", family, model);
  return name;
#else
  return "unknown";
#endif
}
}  // namespace

Isa isa() { return chosen(); }

const char* isa_name() { return kNames[static_cast<int>(isa())]; }

const char* const* isa_names() {
  static const char* names[4] = {};
  int count = 0;
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512})
    if (runs(isa)) names[count++] = kNames[static_cast<int>(isa)];
  return names;
}

const char* family() {
  static const std::string name = family_name();
  return name.c_str();
}

bool use_isa(const char* name) {
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512})
    if (std::strcmp(name, kNames[static_cast<int>(isa)]) == 0 && runs(isa)) return chosen() = isa, true;
  return false;
}
}  // namespace torchext::cpu
