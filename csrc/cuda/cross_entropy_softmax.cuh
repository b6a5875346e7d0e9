// What rows and planes share: the running softmax of one position, its target weights, and its share of the loss.
#pragma once
#include <cmath>
#include <limits>

#include "../cross_entropy.h"
#include "pack.cuh"
#include "reduce.cuh"

namespace torchext::cuda {
__device__ __forceinline__ float exponential(float x) {
  return __expf(x);
}  // x <= 0: within 2 roundings and |x| of one
__device__ __forceinline__ double exponential(double x) { return exp(x); }

template <typename T>
struct Forward {
  T* loss;                       // [positions] or null
  SoftmaxStats<acc_t<T>> stats;  // of all positions
  double* sums;                  // of each block: losses, weights
  const T* x;
  Target<T> target;
  ClassShape s;
};

template <typename T>
struct Backward {
  T* dx;
  const T* dloss;  // null: 1
  bool each;       // dloss has an element a position, else one
  const acc_t<T>* divisor;
  const T* x;
  Target<T> target;
  SoftmaxStats<const acc_t<T>> stats;
  ClassShape s;
};

// A gradient is exp(x - max) * softmax - gradient * q, less at_index at the index.
template <typename A>
struct GradientFactors {
  A max, softmax, gradient, at_index;
  int64_t index;
};

template <typename T>
__device__ __forceinline__ acc_t<T> class_weight(const Target<T>& target, int64_t j) {
  return target.weight ? static_cast<acc_t<T>>(load(target.weight + j)) : acc_t<T>(1);
}

// Whether classes have target weights other than what an index adds.
template <typename T>
__device__ __forceinline__ bool soft(const Target<T>& target) {
  return target.probability || target.even != 0;
}

// The target weight of class j, less what an index adds.
template <typename T>
__device__ __forceinline__ acc_t<T> target_weight(const Target<T>& target, int64_t j, T probability) {
  const acc_t<T> given = target.probability ? target.keep * static_cast<acc_t<T>>(probability) : acc_t<T>(0);
  return class_weight(target, j) * (given + target.even);
}

// Where the index is among classes j ... j + kWide - 1, or -1.
template <int kWide>
__device__ __forceinline__ int place_in(int64_t index, int64_t j) {
  return index >= j && index < j + kWide ? static_cast<int>(index - j) : -1;
}

// Over the classes seen so far: max, the sums of exp(x - max), of q (max - x) and of q, and the logit at the index. The
// maximum starts at the lowest finite number, which makes -inf a plain 0 and leaves NaN to the sum.
template <typename A>
struct Running {
  static constexpr A kLowest = std::numeric_limits<A>::lowest();
  A max = kLowest, sum = 0, dot = 0, q_sum = 0, at = 0;

  __device__ __forceinline__ void raise(A top) {
    if (!(top > max)) return;
    sum *= exponential(max - top);
    if (q_sum != 0) dot += q_sum * (top - max);
    max = top;
  }
  __device__ __forceinline__ void add_weighted(A q, A x) {
    dot += q * (max - x);
    q_sum += q;
  }
  __device__ __forceinline__ void merge(Running other) {
    raise(other.max);
    other.raise(max);
    sum += other.sum, dot += other.dot, q_sum += other.q_sum, at += other.at;
  }
};

struct LossAndWeight {
  double loss = 0, weight = 0;
};

// What a position's softmax comes to: its stats and loss are stored, and added to the block's.
template <typename T>
__device__ __forceinline__ void finish(LossAndWeight& total, const Forward<T>& f, const Running<acc_t<T>>& r,
                                       int64_t position, int64_t index) {
  using A = acc_t<T>;
  const A sum = r.sum == 0 ? static_cast<A>(NAN) : r.sum, log_sum = log(sum);  // 0: all logits are -inf
  A loss = 0, weight = 1;
  if (!f.target.index) {
    loss = r.q_sum * log_sum + r.dot;
    store(f.stats.q_sum + position, r.q_sum);
  } else if (index == f.target.ignore_index) {
    weight = 0;
  } else {
    if (index < 0 || index >= f.s.c) __assert_fail("Target is out of bounds", __FILE__, __LINE__, "cross_entropy");
    weight = class_weight(f.target, index);
    loss = f.target.keep * weight * (log_sum - (r.at - r.max));
    if (f.target.even != 0) loss += r.q_sum * log_sum + r.dot;
  }
  store(f.stats.max + position, r.max);
  store(f.stats.inverse_sum + position, 1 / sum);
  if (f.loss) store(f.loss + position, static_cast<T>(loss));
  total.loss += static_cast<double>(loss);
  total.weight += static_cast<double>(weight);
}

// The block's sums, for total_kernel to add up.
template <int kThreads, typename T>
__device__ __forceinline__ void store_sums(const Forward<T>& f, LossAndWeight total) {
  const double loss = block_reduce<kThreads>(total.loss), weight = block_reduce<kThreads>(total.weight);
  if (threadIdx.x == 0) store(f.sums + 2 * int64_t(blockIdx.x), Pack<double, 2>{{loss, weight}});
}

// What all positions' gradients are multiplied by, read once a warp.
template <typename T>
__device__ __forceinline__ acc_t<T> common_scale(const Backward<T>& b) {
  using A = acc_t<T>;
  A scale = 1;
  if (threadIdx.x % 32 == 0) {
    if (b.dloss && !b.each) scale = static_cast<A>(load(b.dloss));
    if (b.divisor) scale *= 1 / load(b.divisor);
  }
  return __shfl_sync(0xFFFFFFFF, scale, 0);
}

template <typename T>
__device__ __forceinline__ GradientFactors<acc_t<T>> gradient_factors(const Backward<T>& b, acc_t<T> scale,
                                                                      acc_t<T> even_total, int64_t position) {
  using A = acc_t<T>;
  GradientFactors<A> f{load(b.stats.max + position), 0, scale, 0, -1};
  if (b.each) f.gradient *= static_cast<A>(load(b.dloss + position));
  A q_sum = 0;
  if (!b.target.index) {
    q_sum = load(b.stats.q_sum + position);
  } else if (const int64_t t = load(b.target.index + position); t == b.target.ignore_index || t < 0 || t >= b.s.c) {
    f.gradient = 0;
  } else {
    const A at = b.target.keep * class_weight(b.target, t);
    f.index = t;
    f.at_index = f.gradient * at;
    q_sum = at + even_total;
  }
  f.softmax = f.gradient * q_sum * load(b.stats.inverse_sum + position);
  return f;
}

template <bool kSoft, typename T>
__device__ __forceinline__ T gradient(const Backward<T>& b, const GradientFactors<acc_t<T>>& f, T x, int64_t j,
                                      T probability, bool at_index) {
  acc_t<T> dx = exponential(static_cast<acc_t<T>>(x) - f.max) * f.softmax;
  if constexpr (kSoft) dx -= target_weight(b.target, j, probability) * f.gradient;
  if (at_index) dx -= f.at_index;
  return static_cast<T>(dx);
}

// sum_j w[j] e / c, the part of an index's target weights that smoothing adds.
template <typename T>
__device__ __forceinline__ acc_t<T> even_total(const Target<T>& target, int64_t c) {
  return target.even * (target.weight_sum ? load(target.weight_sum) : static_cast<acc_t<T>>(c));
}
}  // namespace torchext::cuda
