// linear:       y[i, j] = sum_p x[i, p] w[j, p] + b[j]
// linear_relu:  the same, then max(y, 0); NaN stays NaN.
//
// Backward, with dz = dy but 0 where y <= 0 (linear: dz = dy):
//   dx[i, p] = sum_j dz[i, j] w[j, p]     dw[j, p] = sum_i dz[i, j] x[i, p]     db[j] = sum_i dz[i, j]
// All three products are one strided matrix product; sums are kept in acc_t<T>.
#pragma once
#include "epilogue.h"
#include "types.h"

namespace torchext {
enum class LinearAlgorithm : int64_t { kLibrary, kNative };  // on the CPU; torchext/linear_relu.py chooses

struct LinearShape {
  int64_t m, k, n;
};  // x: [m, k]   w: [n, k]   b: [n]   y, dy: [m, n]

// c[i, j] = sum_p a(i, p) b(p, j):  a(i, p) = a[i * a_row + p * a_col],  b(p, j) = b[p * b_row + j * b_col];
// c: [m, n], dense
struct MatmulShape {
  int64_t m, n, k, a_row, a_col, b_row, b_col;
};

namespace cpu {
struct MatmulPart {
  int64_t i0, i1, j0, j1;
};  // rows [i0, i1), columns [j0, j1) of c

// The kernels of one instruction set; linear_kernels() gives the chosen one's.
template <typename T>
struct LinearKernels {
  // A part of c = a b + bias, then the epilogue; bias: [n] or null.
  // One of a_row and a_col is 1, one of b_row and b_col too.
  void (*matmul)(T* c, const T* a, const T* b, const T* bias, Epilogue, MatmulShape, MatmulPart);
  // y += bias, then the epilogue, in place; bias: [n] or null
  void (*bias_epilogue)(T* y, const T* bias, Epilogue, int64_t n, int64_t row0, int64_t row1);
  // dz = dy but 0 where y <= 0, over `n` columns and rows [row0, row1), and db[j] += sum of its rows.
  // Null dz: not written. Null y: dz = dy.
  void (*relu_backward)(T* dz, acc_t<T>* db, const T* dy, const T* y, int64_t n, int64_t row0, int64_t row1);
};
template <typename T>
const LinearKernels<T>& linear_kernels();
}  // namespace cpu

namespace cuda {
// How many accumulators of scratch each of the two wants.
template <typename T>
int64_t matmul_scratch_size(MatmulShape);
template <typename T>
int64_t relu_backward_scratch_size(int64_t m, int64_t n);
// c = a b + bias, then the epilogue; bias: [n] or null. float32 is multiplied as it is, or rounded to TF32.
template <typename T>
void matmul(T* c, const T* a, const T* b, const T* bias, Epilogue, bool tf32, MatmulShape, acc_t<T>* scratch,
            void* stream);
// dz = dy but 0 where y <= 0, db[j] = its sum over rows. Null dz or db: not written. Null y: dz = dy.
template <typename T>
void relu_backward(T* dz, T* db, const T* dy, const T* y, int64_t m, int64_t n, acc_t<T>* scratch, void* stream);
}  // namespace cuda
}  // namespace torchext
