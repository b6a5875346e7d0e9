#include "../cross_entropy.h"

#define KERNELS "cross_entropy_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
const CrossEntropyKernels<T>& cross_entropy_kernels() {
  return CHOOSE_ISA(kCrossEntropyKernels<T>);
}
template const CrossEntropyKernels<double>& cross_entropy_kernels();
template const CrossEntropyKernels<float>& cross_entropy_kernels();
template const CrossEntropyKernels<BFloat16>& cross_entropy_kernels();
template const CrossEntropyKernels<Half>& cross_entropy_kernels();
}  // namespace torchext::cpu
