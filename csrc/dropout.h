// dropout:  y[i] = x[i] * scale + shift  where element i is kept,  x[i] * 0 + fill  where it is dropped (a dropped NaN
// stays NaN). Plain dropout is scale = 1 / (1 - p), shift = fill = 0; alpha dropout sets all three. Which elements are
// kept is philox.h's: a function of the seed, p and i alone. So nothing is saved for backward but the seed:
//   dx[i] = dy[i] * scale  where kept,  dy[i] * 0  where dropped
#pragma once
#include "philox.h"
#include "types.h"

namespace torchext {
struct DropoutShape {
  int64_t count;
  const int64_t* seed;  // read by the kernel, in the memory it runs on
  double p, scale, shift, fill;
};  // x, y: [count] in the order of y's memory

namespace cpu {
// Ranges start at multiples of this: whole blocks of draws, as many as the widest vectors take at once.
inline constexpr int64_t kDropoutUnit = 256;

// The kernels of one instruction set; dropout_kernels() gives the chosen one's.
template <typename T>
struct DropoutKernels {
  // y[begin, end); y may be x
  void (*dropout)(T* y, const T* x, DropoutShape, int64_t begin, int64_t end);
};
template <typename T>
const DropoutKernels<T>& dropout_kernels();
}  // namespace cpu

namespace cuda {
// y may be x
template <typename T>
void dropout(T* y, const T* x, DropoutShape, void* stream);
}  // namespace cuda
}  // namespace torchext
