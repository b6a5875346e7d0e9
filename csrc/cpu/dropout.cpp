#include "../dropout.h"

#define KERNELS "dropout_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
void dropout(T* y, const T* x, DropoutShape s, int64_t begin, int64_t end) {
  CHOOSE_ISA(dropout(y, x, s, begin, end));
}

#define INSTANTIATE(T) template void dropout(T*, const T*, DropoutShape, int64_t, int64_t)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cpu
