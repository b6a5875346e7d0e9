// What the glue of cross_entropy shares with that of linear_cross_entropy: the options, the target as each backend's
// kernels read it, and the CPU's loss and gradient of all positions, block by block on torch's threads.
#pragma once
#include <limits>

#include "../cpu/scratch.h"
#include "../cross_entropy.h"
#include "torch.h"

namespace torchext {
enum Reduction : int64_t { kNone, kMean, kSum };  // torch.nn._reduction's numbers

struct LossOptions {
  int64_t ignore_index;
  double label_smoothing;
  int64_t reduction;
};

// NaN over no weight: smoothing gives targets of weight 0 a loss, and sum / 0 would be infinite.
inline double mean_loss(double sum, double weight) {
  return weight == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / weight;
}

inline bool is_index(const Tensor& target) { return target.scalar_type() == ScalarType::Long; }

// SoftmaxStats of so many positions in one tensor of accumulators; the last of it: the total weight.
inline int64_t stats_size(bool index, int64_t positions) { return (index ? 2 : 3) * positions + 1; }
template <typename A>
SoftmaxStats<A> stats_at(A* p, bool index, int64_t positions) {
  return {p, p + positions, index ? nullptr : p + 2 * positions};
}

// The target as the CPU's kernels read it; `weights` holds the class weights where they are not the caller's own.
template <typename T>
ClassTarget<T> class_target(cpu::Scratch<acc_t<T>>& weights, const Tensor& given, int64_t c,
                            const std::optional<Tensor>& weight, const LossOptions& options) {
  using A = acc_t<T>;
  const double label_smoothing = options.label_smoothing;
  const bool index = is_index(given);
  ClassTarget<T> target{};
  if (index)
    target.index = ptr<int64_t>(given);
  else
    target.probability = ptr<T>(given);
  target.keep = static_cast<A>(1 - label_smoothing);
  target.even = static_cast<A>(label_smoothing / static_cast<double>(c));
  target.ignore_index = options.ignore_index;
  if (!weight && index && label_smoothing == 0) return target;
  if constexpr (std::is_same_v<T, A>)
    if (weight) target.weight = ptr<T>(*weight);
  if (!target.weight) {
    weights = cpu::Scratch<A>(c);
    for (int64_t j = 0; j < c; ++j) weights[j] = weight ? static_cast<A>(ptr<T>(*weight)[j]) : A(1);
    target.weight = weights;
  }
  if (label_smoothing != 0) {
    double total = 0;
    for (int64_t j = 0; j < c; ++j) total += target.weight[j];
    target.even_total = static_cast<A>(total * label_smoothing / static_cast<double>(c));
  }
  return target;
}

// The same for the GPU's kernels. A gradient wants sum_weights called first.
template <typename T>
struct CudaTarget {
  cuda::Target<T> kernels;
  std::optional<Tensor> weight_sum;

  CudaTarget(const Tensor& target, int64_t c, const std::optional<Tensor>& weight, const LossOptions& options)
      : kernels{.index = is_index(target) ? ptr<int64_t>(target) : nullptr,
                .probability = is_index(target) ? nullptr : ptr<T>(target),
                .weight = ptr<T>(weight),
                .weight_sum = nullptr,
                .keep = static_cast<acc_t<T>>(1 - options.label_smoothing),
                .even = static_cast<acc_t<T>>(options.label_smoothing / static_cast<double>(c)),
                .ignore_index = options.ignore_index} {}

  void sum_weights(const Tensor& like, int64_t c, const OnDevice& on) {
    if (!kernels.weight || !kernels.index || kernels.even == 0) return;
    weight_sum = accumulators<T>(like, 1);
    cuda::sum_weights<T>(ptr<acc_t<T>>(weight_sum), kernels.weight, c, on.stream());
    kernels.weight_sum = ptr<acc_t<T>>(weight_sum);
  }
};

struct CpuLoss {
  // Fixed by the shape, so that the order of summation does not depend on the number of threads.
  static int64_t block(ClassShape s) {
    const int64_t positions = std::min(cpu::kPositions, grain(s.c));
    return s.s == 1 ? positions : (positions + 63) / 64 * 64;
  }

  // Calls f(block, p0, p1) for every block of positions.
  template <typename F>
  static void each_block(ClassShape s, F&& f) {
    const int64_t positions = s.n * s.s, size = block(s), blocks = (positions + size - 1) / size;
    if (blocks == 1) return f(0, 0, positions);  // 0.2 us sooner
    parallel_for(0, blocks, grain(size * s.c), [&](int64_t block0, int64_t block1) {
      for (int64_t i = block0; i < block1; ++i) f(i, i * size, std::min(positions, (i + 1) * size));
    });
  }

  template <typename T>
  static LossSum sum(T* loss, SoftmaxStats<acc_t<T>> stats, const T* x, const ClassTarget<T>& target, ClassShape s) {
    const int64_t blocks = (s.n * s.s + block(s) - 1) / block(s);
    cpu::Scratch<LossSum> sums(blocks);
    const auto& kernels = cpu::cross_entropy_kernels<T>();
    each_block(
        s, [&](int64_t i, int64_t p0, int64_t p1) { sums[i] = kernels.forward(loss, stats, x, target, s, p0, p1); });
    LossSum total{0, 0, -1};
    for (int64_t i = 0; i < blocks; ++i) {
      total.loss += sums[i].loss;
      total.weight += sums[i].weight;
      if (total.out_of_range < 0) total.out_of_range = sums[i].out_of_range;
    }
    return total;
  }

  template <typename T>
  static void gradient(T* dx, const T* dloss, int64_t dloss_step, acc_t<T> scale, const T* x,
                       const ClassTarget<T>& target, SoftmaxStats<const acc_t<T>> stats, ClassShape s) {
    const auto& kernels = cpu::cross_entropy_kernels<T>();
    each_block(s, [&](int64_t, int64_t p0, int64_t p1) {
      kernels.backward(dx, dloss, dloss_step, scale, x, target, stats, s, p0, p1);
    });
  }

  static void require_in_range(const char* op, int64_t position, const int64_t* index, int64_t c,
                               int64_t ignore_index) {
    if (position < 0) return;
    const int64_t t = index[position];
    require(false, op, ": expected target in [0, ", c, ") or ignore_index ", ignore_index, ", got ", t,
            " at flat position ", position, " (torch: Target ", t, " is out of bounds.)");
  }
};
}  // namespace torchext
