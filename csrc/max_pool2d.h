// max_pool2d, with tap (r, s) of output (i, j) at input (p, q) = (i sh - ph + r dh, j sw - pw + s dw):
//   y[i, j] = max over the taps inside the input of x[p, q]
//   offset[i, j] = r kw + s of the tap that won: the first of equals, the last NaN, the first inside if all are -inf;
//                  kDead where no tap is inside (possible with dilation and padding; y is -inf)
// Backward:  dx[p, q] = sum of dy[i, j] over the outputs whose offset names (p, q); kDead names none.
//
// One byte per output is all that backward needs. Whoever else makes offsets (pooling fused behind ReLU) marks with
// kDead the outputs that pass no gradient.
#pragma once
#include "types.h"

namespace torchext {
inline constexpr uint8_t kDead = 255;
inline constexpr int64_t kMaxTaps = kDead;  // kh kw at most

// x, dx: [planes, h, w, channels]   y, dy, offsets: [planes, oh, ow, channels]   contiguous: channels = 1
struct PoolShape {
  int64_t planes, channels, h, w, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw;
};

namespace cpu {
// The kernels of one instruction set; pool_kernels() gives the chosen one's.
template <typename T>
struct PoolKernels {
  // How many planes are pooled at once: ranges of rows begin at their first row, the last may have fewer. 0: anywhere.
  int64_t (*planes)(PoolShape);
  // Rows [row0, row1) of the planes * oh rows of y and offsets; null offsets: not written.
  void (*forward)(T* y, uint8_t* offsets, const T* x, PoolShape, int64_t row0, int64_t row1);
  // Rows [row0, row1) of the planes * h rows of dx.
  void (*backward)(T* dx, const T* dy, const uint8_t* offsets, PoolShape, int64_t row0, int64_t row1);
};
template <typename T>
const PoolKernels<T>& pool_kernels();
// p w + q of each offset, over rows [row0, row1) of the planes * oh; kDead: of the first tap with p, q >= 0, as stock.
void max_pool2d_indices(int64_t* indices, const uint8_t* offsets, PoolShape, int64_t row0, int64_t row1);
}  // namespace cpu

namespace cuda {
// The same three, all rows.
template <typename T>
void max_pool2d(T* y, uint8_t* offsets, const T* x, PoolShape, void* stream);
template <typename T>
void max_pool2d_backward(T* dx, const T* dy, const uint8_t* offsets, PoolShape, void* stream);
void max_pool2d_indices(int64_t* indices, const uint8_t* offsets, PoolShape, void* stream);
}  // namespace cuda
}  // namespace torchext
