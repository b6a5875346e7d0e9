#include "../linear_cross_entropy.h"

#define KERNELS "linear_cross_entropy_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
const ShareKernels<T>& share_kernels() {
  return CHOOSE_ISA(kShareKernels<T>);
}
template const ShareKernels<BFloat16>& share_kernels();
template const ShareKernels<Half>& share_kernels();
}  // namespace torchext::cpu
