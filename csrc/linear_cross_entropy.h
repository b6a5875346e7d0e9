// logits z = x w^T + b, never held whole:  z[i, j, d] = sum_p x[i, p] w[j, d, p] + b[j, d]
//   loss = cross_entropy(z, target), and dz its gradient; both as csrc/cross_entropy.h has them
//   dx[i, p] = sum_jd dz[i, j, d] w[j, d, p]
//   dw[j, d, p] = sum_i dz[i, j, d] x[i, p]
//   db[j, d] = sum_i dz[i, j, d]
//
// Rows of x go through in chunks: a chunk's logits, their softmax, their gradient in the same place, and from that the
// chunk's rows of dx and its share of dw and db. The products are csrc/linear_relu.h's, or the BLAS's on the CPU, the
// softmax csrc/cross_entropy.h's; here is what adds the shares up. Memory: the results, a chunk of logits and, where
// shares are rounded (16 bits) or the product cannot add, accumulators for dw and a piece of one share.
#pragma once
#include "types.h"

namespace torchext {
// A share's place among the shares of a sum: the first starts it, the last leaves it in the result's dtype.
struct Share {
  bool first, last;
};

namespace cpu {
// The kernels of one instruction set, for T of 16 bits; share_kernels() gives the chosen one's.
template <typename T>
struct ShareKernels {
  // sum[i] = share[i], plus sum[i] unless it is the first; the last goes to total[i] instead. total may be sum.
  void (*add)(T* total, acc_t<T>* sum, const T* share, Share, int64_t count);
};
template <typename T>
const ShareKernels<T>& share_kernels();
}  // namespace cpu

namespace cuda {
template <typename T>
void add_share(T* total, acc_t<T>* sum, const T* share, Share, int64_t count, void* stream);
// *total = the sum over positions of weight[index], or of 1 where weight or index is null; of 0 at ignore_index
template <typename T>
void target_weight(acc_t<T>* total, const int64_t* index, const T* weight, int64_t ignore_index, int64_t c,
                   int64_t positions, void* stream);
}  // namespace cuda
}  // namespace torchext
