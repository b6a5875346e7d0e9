#include "../linear_relu.h"

#define KERNELS "linear_relu_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
const LinearKernels<T>& linear_kernels() {
  return CHOOSE_ISA(kLinearKernels<T>);
}
template const LinearKernels<double>& linear_kernels();
template const LinearKernels<float>& linear_kernels();
template const LinearKernels<BFloat16>& linear_kernels();
template const LinearKernels<Half>& linear_kernels();
}  // namespace torchext::cpu
