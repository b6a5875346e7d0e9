#include "../conv2d.h"

#define KERNELS "conv2d_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
const ConvKernels<T>& conv_kernels() {
  return CHOOSE_ISA(kConvKernels<T>);
}
template const ConvKernels<double>& conv_kernels();
template const ConvKernels<float>& conv_kernels();
template const ConvKernels<BFloat16>& conv_kernels();
template const ConvKernels<Half>& conv_kernels();
}  // namespace torchext::cpu
