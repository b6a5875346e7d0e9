// Builds the vector kernels in the header KERNELS once per instruction set, each time in a namespace of its own (ISA)
// with vectors of VECTOR_BYTES; CHOOSE_ISA(table) is then the one for this processor. Everything that is not to be
// built per instruction set is included here, before the target changes: an inline function of the standard library
// compiled for AVX-512 could otherwise be the copy the linker keeps for all. GCC alone compiles one file for several
// targets by pragma; other compilers, and other processors, get the baseline.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "../types.h"
#include "isa.h"
#include "scratch.h"

#if defined(TORCHEXT_X86_KERNELS)
#include <immintrin.h>
#endif

#define ISA baseline
#define ISA_LEVEL 0
#define VECTOR_BYTES 16
#include "one_isa.h"

#if defined(TORCHEXT_X86_KERNELS)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#define ISA avx2
#define ISA_LEVEL 2
#define VECTOR_BYTES 32
#include "one_isa.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,prefer-vector-width=512")
#define ISA avx512
#define ISA_LEVEL 512
#define VECTOR_BYTES 64
#include "one_isa.h"
#pragma GCC pop_options

#define CHOOSE_ISA(table)                                 \
  (::torchext::cpu::isa() == Isa::kAvx512 ? avx512::table \
   : ::torchext::cpu::isa() == Isa::kAvx2 ? avx2::table   \
                                          : baseline::table)
#else
#define CHOOSE_ISA(table) baseline::table
#endif
