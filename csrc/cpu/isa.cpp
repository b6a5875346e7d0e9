#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

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

bool is_zen4() {
#ifdef TORCHEXT_X86_KERNELS
  return isa() == Isa::kAvx512 && __builtin_cpu_is("amdfam19h");  // of that family Zen 3 has no AVX-512
#else
  return false;
#endif
}

bool use_isa(const char* name) {
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512})
    if (std::strcmp(name, kNames[static_cast<int>(isa)]) == 0 && runs(isa)) return chosen() = isa, true;
  return false;
}
}  // namespace torchext::cpu
