// x: [n, c, s] logits; each of the n * s positions has a softmax over c and target weights q over c:
//   class index t:   q[j] = w[j] ((1 - e) [j == t] + e / c),   all 0 where t == ignore_index
//   probabilities:   q[j] = w[j] ((1 - e) target[j] + e / c)
// with w the class weights (1 if none) and e the label smoothing.
//   loss = sum_j q[j] (log sum_k exp(x[k]) - x[j])       dx[j] = dloss (softmax(x)[j] sum_k q[k] - q[j])
// mean divides the sum of the losses by the total weight: the sum of w[t] over positions not ignored, or of 1 for
// probabilities; it is NaN where that is 0.
//
// Saved beside x: max and 1 / sum_k exp(x[k] - max). Their logarithm alone would lose log2(|x|) bits of large logits.
#pragma once
#include "types.h"

namespace torchext {
struct ClassShape {
  int64_t n, c, s;
};

template <typename T>
struct ClassTarget {
  const int64_t* index;    // [n, s]; null: probabilities
  const T* probability;    // [n, c, s]
  const acc_t<T>* weight;  // w: [c]; null only for class indices that are neither weighted nor smoothed
  acc_t<T> keep, even;     // 1 - e, e / c
  acc_t<T> even_total;     // sum_j w[j] e / c
  int64_t ignore_index;

  bool smoothed() const { return even != 0; }
};

// The target, a ClassTarget or a cuda::Target, of the rows of x from `row` on.
template <typename Target>
Target from_row(Target target, int64_t row, ClassShape s) {
  if (target.index)
    target.index += row * s.s;
  else
    target.probability += row * s.c * s.s;
  return target;
}

// Rows of [n * s], one after the other; q_sum is kept for probabilities alone. A is const where they are read.
template <typename A>
struct SoftmaxStats {
  A *max, *inverse_sum, *q_sum;
};

struct LossSum {
  double loss, weight;
  int64_t out_of_range;
};  // out_of_range: the first position with a bad index, or -1

namespace cpu {
inline constexpr int64_t kPositions = 1024;  // the most positions of one call

// The kernels of one instruction set; cross_entropy_kernels() gives the chosen one's.
template <typename T>
struct CrossEntropyKernels {
  // Positions [p0, p1): their stats, their losses unless `loss` is null, and what mean and sum need of them.
  LossSum (*forward)(T* loss, SoftmaxStats<acc_t<T>>, const T* x, const ClassTarget<T>&, ClassShape, int64_t p0,
                     int64_t p1);
  // dx, which may be x, at positions [p0, p1): dloss[p * dloss_step] * scale is each one's gradient
  void (*backward)(T* dx, const T* dloss, int64_t dloss_step, acc_t<T> scale, const T* x, const ClassTarget<T>&,
                   SoftmaxStats<const acc_t<T>>, ClassShape, int64_t p0, int64_t p1);
};
template <typename T>
const CrossEntropyKernels<T>& cross_entropy_kernels();
}  // namespace cpu

namespace cuda {
// As ClassTarget, but class weights are the caller's own, and null means 1 for all.
template <typename T>
struct Target {
  const int64_t* index;
  const T *probability, *weight;
  const acc_t<T>* weight_sum;  // where sum_weights put it; null where it is c
  acc_t<T> keep, even;
  int64_t ignore_index;
};

// How many doubles of scratch cross_entropy wants.
template <typename T>
int64_t cross_entropy_scratch_size(ClassShape);
// Every position's stats and, unless `losses` is null, its loss; the losses' and weights' sums by blocks, as many as it
// returns, go to scratch. An index out of range fails an assertion on the device.
template <typename T>
int64_t cross_entropy(T* losses, SoftmaxStats<acc_t<T>>, const T* x, const Target<T>&, ClassShape, double* scratch,
                      void* stream);
// From those of `count` blocks: the total weight and, unless `loss` is null, the losses' sum or mean.
template <typename T>
void total_loss(T* loss, acc_t<T>* total_weight, bool mean, const double* sums, int64_t count, void* stream);
// dx may be x. dloss has an element a position (`each`) or one for all, or is null: 1.
// It is divided by *divisor unless that is null.
template <typename T>
void cross_entropy_backward(T* dx, const T* dloss, bool each, const acc_t<T>* divisor, const T* x, const Target<T>&,
                            SoftmaxStats<const acc_t<T>>, ClassShape, void* stream);
// *sum = sum_j weight[j]
template <typename T>
void sum_weights(acc_t<T>* sum, const T* weight, int64_t c, void* stream);
}  // namespace cuda
}  // namespace torchext
