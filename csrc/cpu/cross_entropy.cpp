#include "../cross_entropy.h"

#define KERNELS "cross_entropy_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
LossSum cross_entropy(T* loss, SoftmaxStats<acc_t<T>> stats, const T* x, const ClassTarget<T>& target, ClassShape s,
                      int64_t p0, int64_t p1) {
  return CHOOSE_ISA(cross_entropy(loss, stats, x, target, s, p0, p1));
}
template <typename T>
void cross_entropy_backward(T* dx, const T* dloss, int64_t dloss_step, acc_t<T> scale, const T* x,
                            const ClassTarget<T>& target, SoftmaxStats<const acc_t<T>> stats, ClassShape s, int64_t p0,
                            int64_t p1) {
  CHOOSE_ISA(cross_entropy_backward(dx, dloss, dloss_step, scale, x, target, stats, s, p0, p1));
}

#define INSTANTIATE(T)                                                                                             \
  template LossSum cross_entropy(T*, SoftmaxStats<acc_t<T>>, const T*, const ClassTarget<T>&, ClassShape, int64_t, \
                                 int64_t);                                                                         \
  template void cross_entropy_backward(T*, const T*, int64_t, acc_t<T>, const T*, const ClassTarget<T>&,           \
                                       SoftmaxStats<const acc_t<T>>, ClassShape, int64_t, int64_t)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cpu
