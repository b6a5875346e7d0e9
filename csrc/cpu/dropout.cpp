#include "../dropout.h"

#define KERNELS "dropout_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
const DropoutKernels<T>& dropout_kernels() {
  return CHOOSE_ISA(kDropoutKernels<T>);
}
template const DropoutKernels<double>& dropout_kernels();
template const DropoutKernels<float>& dropout_kernels();
template const DropoutKernels<BFloat16>& dropout_kernels();
template const DropoutKernels<Half>& dropout_kernels();
}  // namespace torchext::cpu
