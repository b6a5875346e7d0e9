// conv2d_relu_max_pool2d: the mathematics, the shapes and the CPU's kernels are conv2d.h's; these are the GPU's.
#pragma once
#include "conv2d.h"

namespace torchext::cuda {
// What is null is not wanted. x, w, dy and offsets are dense, as ConvShape says.
template <typename T>
void conv2d_relu_max_pool2d(T* y, uint8_t* offsets, const T* x, const T* w, const T* b, ConvShape, ConvPool,
                            void* stream);

template <typename T>
struct PooledGradients {
  T *dx, *dw, *db;
  acc_t<T>* sums;  // conv2d_relu_max_pool2d_backward_scratch_size() of them, if dw or db is wanted
  const T* dy;
  const uint8_t* offsets;
  const T *x, *w;
};
template <typename T>
int64_t conv2d_relu_max_pool2d_backward_scratch_size(ConvShape, ConvPool);
template <typename T>
void conv2d_relu_max_pool2d_backward(PooledGradients<T>, ConvShape, ConvPool, void* stream);
}  // namespace torchext::cuda
