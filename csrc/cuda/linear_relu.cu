// linear and linear_relu: the matrix products on matmul.cuh; the mask and the bias gradient on relu_backward.cuh.
#include "matmul.cuh"
#include "relu_backward.cuh"

namespace torchext::cuda {
namespace {
// 16-bit elements: 80 KB of stages for the large tile, two blocks a processor.
using SmallHalf = Tiles<64, 64, 32, 2, 2, 4>;
using LargeHalf = Tiles<128, 128, 32, 2, 4, 4>;
using SmallFloat = Tiles<64, 64, 16, 2, 4, 3>;
using LargeFloat = Tiles<128, 64, 16, 4, 2, 3>;  // 128 x 128 floats would not fit two blocks' registers

template <typename T>
using Small = std::conditional_t<sizeof(T) == 2, SmallHalf, SmallFloat>;
template <typename T>
using Large = std::conditional_t<sizeof(T) == 2, LargeHalf, std::conditional_t<sizeof(T) == 4, LargeFloat, SmallFloat>>;
}  // namespace

template <typename T>
int64_t matmul_scratch_size(MatmulShape s) {
  const ProductPlan plan = plan_product<Small<T>, Large<T>>(s.m, s.n, s.k);
  return plan.splits > 1 ? plan.splits * s.m * s.n : 0;
}

template <typename T>
void matmul(T* c, const T* a, const T* b, const T* bias, Epilogue epilogue, bool tf32, MatmulShape s, acc_t<T>* scratch,
            void* stream) {
  if (s.m == 0 || s.n == 0) return;
  const ProductPlan plan = plan_product<Small<T>, Large<T>>(s.m, s.n, s.k);
  const MatmulArguments<T> g{c, a, b, bias, plan.splits > 1 ? scratch : nullptr, plan.depth, epilogue, s};
  with_math<T>(tf32, [&]<template <typename, class, Order, Order> class Math>() {
    if (plan.large)
      launch_matmul_by_order<Math, Large<T>>(g, plan.splits, stream);
    else
      launch_matmul_by_order<Math, Small<T>>(g, plan.splits, stream);
  });
  if (plan.splits > 1)
    launch<add_pieces_kernel<T>>(blocks(s.m * s.n, 256), 256, 0, stream, g, static_cast<int>(plan.splits));
}

template <typename T>
int64_t relu_backward_scratch_size(int64_t m, int64_t n) {
  return mask_rows_scratch_size(m, n);
}

template <typename T>
void relu_backward(T* dz, T* db, const T* dy, const T* y, int64_t m, int64_t n, acc_t<T>* scratch, void* stream) {
  mask_rows(dz, db, dy, y, m, n, scratch, stream);
}

#define INSTANTIATE(T)                                                                                   \
  template int64_t matmul_scratch_size<T>(MatmulShape);                                                  \
  template void matmul(T*, const T*, const T*, const T*, Epilogue, bool, MatmulShape, acc_t<T>*, void*); \
  template int64_t relu_backward_scratch_size<T>(int64_t, int64_t);                                      \
  template void relu_backward(T*, T*, const T*, const T*, int64_t, int64_t, acc_t<T>*, void*)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cuda
