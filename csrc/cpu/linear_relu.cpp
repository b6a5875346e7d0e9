#include "../linear_relu.h"

#define KERNELS "linear_relu_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
void matmul(T* c, const T* a, const T* b, const T* bias, Epilogue epilogue, MatmulShape s, MatmulPart part) {
  CHOOSE_ISA(matmul(c, a, b, bias, epilogue, s, part));
}
template <typename T>
void bias_epilogue(T* y, const T* bias, Epilogue epilogue, int64_t n, int64_t row0, int64_t row1) {
  CHOOSE_ISA(bias_epilogue(y, bias, epilogue, n, row0, row1));
}
template <typename T>
void relu_backward(T* dz, acc_t<T>* db, const T* dy, const T* y, int64_t n, int64_t row0, int64_t row1) {
  CHOOSE_ISA(relu_backward(dz, db, dy, y, n, row0, row1));
}

#define INSTANTIATE(T)                                                                       \
  template void matmul(T*, const T*, const T*, const T*, Epilogue, MatmulShape, MatmulPart); \
  template void bias_epilogue(T*, const T*, Epilogue, int64_t, int64_t, int64_t);            \
  template void relu_backward(T*, acc_t<T>*, const T*, const T*, int64_t, int64_t, int64_t)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cpu
