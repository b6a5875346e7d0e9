#include "../conv2d_winograd.h"

#define KERNELS "conv2d_winograd_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
const WinogradKernels& winograd_kernels() { return CHOOSE_ISA(kWinogradKernels); }
}  // namespace torchext::cpu
