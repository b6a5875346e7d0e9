// Which instruction set the CPU kernels run on: the widest this processor has, or the one TORCHEXT_CPU names.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define TORCHEXT_X86_KERNELS  // AVX2 and AVX-512 are built beside the baseline
#endif

namespace torchext::cpu {
enum class Isa { kBaseline, kAvx2, kAvx512 };

Isa isa();
const char* isa_name();
const char* const* isa_names();  // every one this build and this processor can run, narrowest first; ends with null
const char* family();  // the processor's, such as "amd-19h" or "intel-06h-8fh": what measured speed is keyed by
bool use_isa(const char* name);  // false, and nothing changes, if this build or this processor cannot run it
}  // namespace torchext::cpu
