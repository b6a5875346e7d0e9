#include "../linear_cross_entropy.h"

#define KERNELS "linear_cross_entropy_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
void add_share(T* total, acc_t<T>* sum, const T* share, Share place, int64_t count) {
  CHOOSE_ISA(add_share(total, sum, share, place, count));
}

#define INSTANTIATE(T) template void add_share(T*, acc_t<T>*, const T*, Share, int64_t)
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cpu
