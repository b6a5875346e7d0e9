// Softmax cross-entropy in one pass over the logits: forward reads x once, backward reads x and writes dx once; one exp
// per logit each way. Bound by memory from a few hundred classes on, by exp below. Where a position's classes lie side
// by side and are many, the vector's lanes are classes; else they are positions, so that no sum runs across lanes.
#include "cross_entropy_lanes.h"
#include "cross_entropy_rows.h"

namespace torchext::cpu::ISA {
// Up to so many classes, turning a block of rows on its side costs less than the sums across lanes it saves.
inline constexpr int64_t kFewClasses = 32;

// Calls f with the kind of target weights as a constant.
template <typename T, typename F>
void with_kind(const ClassTarget<T>& target, F&& f) {
  if (!target.index) return f(std::integral_constant<Kind, Kind::kProbability>());
  if (target.smoothed()) return f(std::integral_constant<Kind, Kind::kSmoothedIndex>());
  f(std::integral_constant<Kind, Kind::kIndex>());
}

inline bool lanes_are_positions(ClassShape s) { return s.s > 1 || s.c <= kFewClasses; }

template <typename T>
LossSum cross_entropy(T* loss, SoftmaxStats<acc_t<T>> stats, const T* x, const ClassTarget<T>& target, ClassShape s,
                      int64_t p0, int64_t p1) {
  using A = acc_t<T>;
  A sum[kPositions], dot[kPositions], q_sum[kPositions];
  const Softmax<A> out{stats.max + p0, sum, dot, stats.q_sum ? stats.q_sum + p0 : q_sum};
  with_kind(target, [&](auto kind) {
    if (lanes_are_positions(s))
      reduce_lanes<kind()>(out, x, target, s, p0, p1);
    else
      for (int64_t p = p0; p < p1; ++p) reduce_row<kind()>(out, p - p0, x + p * s.c, target, s.c, p);
  });

  A log_sum[kPositions];
  for (int64_t i = 0; i < p1 - p0; i += kLanes<A>) {
    const int64_t count = std::min<int64_t>(kLanes<A>, p1 - p0 - i);
    Vec<A> v = load(sum + i, count);
    v = v == 0 ? splat<Vec<A>>(std::numeric_limits<A>::quiet_NaN()) : v;  // all logits are -inf
    store(log_sum + i, log(v), count);
    store(stats.inverse_sum + p0 + i, 1 / v, count);
  }

  LossSum total{0, 0, -1};
  for (int64_t p = p0; p < p1; ++p) {
    const int64_t i = p - p0;
    A value = 0, weight = 1;
    if (!target.index) {
      value = out.q_sum[i] * log_sum[i] - dot[i];
    } else if (const int64_t t = target.index[p]; t == target.ignore_index) {
      weight = 0;
    } else if (t < 0 || t >= s.c) {
      if (total.out_of_range < 0) total.out_of_range = p;
    } else {
      if (target.weight) weight = target.weight[t];
      const int64_t at = s.s == 1 ? p * s.c + t : (p / s.s * s.c + t) * s.s + p % s.s;  // a division takes 10 cycles
      const A logit = static_cast<A>(x[at]);
      value = target.keep * weight * (log_sum[i] - (logit - out.max[i]));
      if (target.smoothed()) value += target.even_total * log_sum[i] - dot[i];
    }
    total.loss += value;
    total.weight += weight;
    if (loss) loss[p] = static_cast<T>(value);
  }
  return total;
}

template <typename T>
void cross_entropy_backward(T* dx, const T* dloss, int64_t dloss_step, acc_t<T> scale, const T* x,
                            const ClassTarget<T>& target, SoftmaxStats<const acc_t<T>> stats, ClassShape s, int64_t p0,
                            int64_t p1) {
  using A = acc_t<T>;
  A softmax_factor[kPositions], gradient[kPositions], at_index[kPositions];
  Lane<A> index[kPositions];
  const Gradient<A> in{stats.max + p0, softmax_factor, gradient, at_index, index};
  for (int64_t p = p0; p < p1; ++p) {
    const int64_t i = p - p0;
    A g = static_cast<A>(dloss[p * dloss_step]) * scale, q_sum = stats.q_sum ? stats.q_sum[p] : 0;
    index[i] = -1;
    at_index[i] = 0;
    if (target.index) {
      const int64_t t = target.index[p];
      if (t == target.ignore_index || t < 0 || t >= s.c) {
        g = 0;
      } else {
        const A at = target.keep * (target.weight ? target.weight[t] : A(1));
        index[i] = static_cast<Lane<A>>(t);
        at_index[i] = g * at;
        q_sum = at + target.even_total;
      }
    }
    gradient[i] = g;
    softmax_factor[i] = g * q_sum * stats.inverse_sum[p];
  }
  with_kind(target, [&](auto kind) {
    if (lanes_are_positions(s))
      gradient_lanes<kind()>(dx, x, in, target, s, p0, p1);
    else
      for (int64_t p = p0; p < p1; ++p) gradient_row<kind()>(dx + p * s.c, x + p * s.c, in, p - p0, target, s.c, p);
  });
}

template <typename T>
inline constexpr CrossEntropyKernels<T> kCrossEntropyKernels{.forward = cross_entropy<T>,
                                                             .backward = cross_entropy_backward<T>};
}  // namespace torchext::cpu::ISA
