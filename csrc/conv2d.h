// conv2d:  y[n, k, p, q] = b[k] + sum_{c, r, s} x[n, c, p sh - ph + r dh, q sw - pw + s dw] w[k, c, r, s],
//          c running over the channels of k's group, x = 0 outside the image.
// conv2d_relu:             the same, then max(y, 0); NaN stays NaN.
// conv2d_relu_max_pool2d:  the same, then the maximum of each pooling window, and
//                          offset[n, k, p', q'] = the tap i kw + j of the window that holds it,
//                          or kDead where ReLU makes it 0 and so stops the gradient.
//
// Backward, with dz = dy where y > 0 or is NaN (conv2d: dz = dy; pooled: dy put back at its tap, kDead dropped):
//   dx[n, c, h, w] = sum dz[n, k, p, q] w[k, c, r, s] over all (k, p, q, r, s) that read x[n, c, h, w]
//   dw[k, c, r, s] = sum_{n, p, q} dz[n, k, p, q] x[n, c, p sh - ph + r dh, q sw - pw + s dw]
//   db[k] = sum_{n, p, q} dz[n, k, p, q]
// Sums are kept in acc_t<T>.
#pragma once
#include "epilogue.h"
#include "types.h"

namespace torchext {
struct ConvShape {
  int64_t n, c, h, w;  // x: [n, c, h, w]
  int64_t k, r, s;     // w: [k, c / groups, r, s], dense   b: [k]
  int64_t p, q;        // y: [n, k, p, q]
  int64_t sh, sw, ph, pw, dh, dw, groups;
  bool channels_last;  // x, y and their gradients are dense in this memory format
  int64_t group_c() const { return c / groups; }
  int64_t group_k() const { return k / groups; }
};

struct ConvPool {
  int64_t kh, kw, sh, sw, ph, pw;  // the window, its stride and its padding; kh * kw <= 255
  int64_t p, q;                    // the pooled y, and the offsets: [n, k, p, q]
};

namespace cpu {
inline constexpr uint8_t kDead = 255;

template <typename T>
struct ConvGradients {
  T* dx;           // null: not wanted
  acc_t<T>* sums;  // [k * group_c * r * s + k], this range's own dw and db; null: not wanted
  const T* dy;
  const T* y;              // masks dy, which then is not pooled; null: no mask
  const uint8_t* offsets;  // of the pooled dy; null: dy is not pooled
  const T* x;              // read for dw alone
  const acc_t<T>* packed;  // pack_dx's, read for dx alone
};

// The kernels of one instruction set; conv_kernels() gives the chosen one's.
template <typename T>
struct ConvKernels {
  // The direct kernel works on so many images at once; a range of images starts at a multiple of it.
  int64_t (*images)(ConvShape, const ConvPool*);
  int64_t (*backward_images)(ConvShape, const ConvPool*, bool wants_dx);
  // w as forward reads it, and as the input gradient does: k * group_c * r * s accumulators,
  // or more where blocks overlap.
  int64_t (*pack_size)(ConvShape);
  void (*pack)(acc_t<T>* packed, const T* w, ConvShape);
  int64_t (*pack_dx_size)(ConvShape);
  void (*pack_dx)(acc_t<T>* packed, const T* w, ConvShape);

  // Images [n0, n1). Null pool: y is [n, k, p, q] and offsets is not read;
  // else y and offsets are the pooled ones, and ReLU is the epilogue.
  void (*forward)(T* y, uint8_t* offsets, const T* x, const acc_t<T>* packed, const T* b, Epilogue, ConvShape,
                  const ConvPool*, int64_t n0, int64_t n1);
  void (*backward)(ConvGradients<T>, ConvShape, const ConvPool*, int64_t n0, int64_t n1);

  // The passes that a convolution by oneDNN leaves to us, over n elements: the epilogue on y;
  // dz = dy where y > 0 or is NaN.
  void (*epilogue_pass)(T* y, Epilogue, int64_t n);
  void (*mask_pass)(T* dz, const T* dy, const T* y, int64_t n);
};
template <typename T>
const ConvKernels<T>& conv_kernels();
}  // namespace cpu

// By tensor-core or plain matrix products, with w and dw dense in the images' memory format. float32 is multiplied as
// it is, or rounded to TF32.
namespace cuda {
struct ConvWants {
  bool y, dx, dw, db;
};
// How many accumulators of scratch the results wanted need, one after the other.
template <typename T>
int64_t conv2d_scratch_size(ConvShape, ConvWants);
template <typename T>
void conv2d(T* y, const T* x, const T* w, const T* b, Epilogue, bool tf32, ConvShape, acc_t<T>* scratch, void* stream);
// dz = dy where y > 0 or is NaN, and db. Null dz or db: not written. Null y: dz = dy.
template <typename T>
void conv2d_mask(T* dz, T* db, const T* dy, const T* y, ConvShape, acc_t<T>* scratch, void* stream);
// Null dx or dw: not wanted.
template <typename T>
void conv2d_backward(T* dx, T* dw, const T* dz, const T* x, const T* w, bool tf32, ConvShape, acc_t<T>* scratch,
                     void* stream);
}  // namespace cuda
}  // namespace torchext
