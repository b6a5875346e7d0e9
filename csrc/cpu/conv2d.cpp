#include "../conv2d.h"

#define KERNELS "conv2d_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
int64_t conv2d_images(ConvShape s, const ConvPool* pool) {
  return CHOOSE_ISA(conv2d_images<T>(s, pool));
}
template <typename T>
int64_t conv2d_backward_images(ConvShape s, const ConvPool* pool, bool wants_dx) {
  return CHOOSE_ISA(conv2d_backward_images<T>(s, pool, wants_dx));
}
template <typename T>
int64_t conv2d_pack_size(ConvShape s) {
  return CHOOSE_ISA(conv2d_pack_size<T>(s));
}
template <typename T>
void conv2d_pack(acc_t<T>* packed, const T* w, ConvShape s) {
  CHOOSE_ISA(conv2d_pack(packed, w, s));
}
template <typename T>
int64_t conv2d_pack_dx_size(ConvShape s) {
  return CHOOSE_ISA(conv2d_pack_dx_size<T>(s));
}
template <typename T>
void conv2d_pack_dx(acc_t<T>* packed, const T* w, ConvShape s) {
  CHOOSE_ISA(conv2d_pack_dx(packed, w, s));
}
template <typename T>
void conv2d(T* y, uint8_t* offsets, const T* x, const acc_t<T>* packed, const T* b, Epilogue epilogue, ConvShape s,
            const ConvPool* pool, int64_t n0, int64_t n1) {
  CHOOSE_ISA(conv2d(y, offsets, x, packed, b, epilogue, s, pool, n0, n1));
}
template <typename T>
void conv2d_backward(ConvGradients<T> f, ConvShape s, const ConvPool* pool, int64_t n0, int64_t n1) {
  CHOOSE_ISA(conv2d_backward(f, s, pool, n0, n1));
}
template <typename T>
void conv2d_epilogue_pass(T* y, Epilogue epilogue, int64_t n) {
  CHOOSE_ISA(conv2d_epilogue_pass(y, epilogue, n));
}
template <typename T>
void conv2d_mask_pass(T* dz, const T* dy, const T* y, int64_t n) {
  CHOOSE_ISA(conv2d_mask_pass(dz, dy, y, n));
}

#define INSTANTIATE(T)                                                                                          \
  template int64_t conv2d_images<T>(ConvShape, const ConvPool*);                                                \
  template int64_t conv2d_backward_images<T>(ConvShape, const ConvPool*, bool);                                 \
  template int64_t conv2d_pack_size<T>(ConvShape);                                                              \
  template void conv2d_pack(acc_t<T>*, const T*, ConvShape);                                                    \
  template int64_t conv2d_pack_dx_size<T>(ConvShape);                                                           \
  template void conv2d_pack_dx(acc_t<T>*, const T*, ConvShape);                                                 \
  template void conv2d(T*, uint8_t*, const T*, const acc_t<T>*, const T*, Epilogue, ConvShape, const ConvPool*, \
                       int64_t, int64_t);                                                                       \
  template void conv2d_backward(ConvGradients<T>, ConvShape, const ConvPool*, int64_t, int64_t);                \
  template void conv2d_epilogue_pass(T*, Epilogue, int64_t);                                                    \
  template void conv2d_mask_pass(T*, const T*, const T*, int64_t)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cpu
