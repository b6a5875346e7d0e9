// Cross-entropy where the lanes of a vector are classes of one position, c side by side in memory.
#ifndef TORCHEXT_CROSS_ENTROPY_ROWS
#define TORCHEXT_CROSS_ENTROPY_ROWS
#include "exp.h"

namespace torchext::cpu::ISA {
enum class Kind { kIndex, kSmoothedIndex, kProbability };

// An index as wide as a lane: 32 bits hold every class whose logits fit in memory 16 positions at a time.
template <typename A>
using Lane = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;

// What a block of positions yields forward: sum of exp(x - max);
// dot and sum of the target weights (without index's own part).
template <typename A>
struct Softmax {
  A *max, *sum, *dot, *q_sum;
};

// What a block of positions needs backward: dx = exp(x - max) * softmax_factor - gradient * q,
// less at_index at the index.
template <typename A>
struct Gradient {
  const A *max, *softmax_factor, *gradient, *at_index;
  const Lane<A>* index;
};

template <typename A>
inline auto first(int64_t count) {
  Vec<Lane<A>> lane{};
  for (int i = 0; i < kLanes<A>; ++i) lane[i] = i;
  return lane < static_cast<Lane<A>>(count);
}

// Of classes j... of position p: the weighted probabilities given; the target weights, less those an index adds.
// `lanes` is empty or the count of lanes.
template <typename T, typename... Lanes>
inline Vec<acc_t<T>> given_weights(const ClassTarget<T>& target, int64_t c, int64_t p, int64_t j, Lanes... lanes) {
  return load(target.weight + j, lanes...) * load(target.probability + p * c + j, lanes...);
}
template <Kind kKind, typename T, typename... Lanes>
inline Vec<acc_t<T>> target_weights(const ClassTarget<T>& target, int64_t c, int64_t p, int64_t j, Lanes... lanes) {
  const Vec<acc_t<T>> even = load(target.weight + j, lanes...) * target.even;
  if constexpr (kKind == Kind::kSmoothedIndex) return even;
  return given_weights(target, c, p, j, lanes...) * target.keep + even;
}

// Sums are kept in two levels, of so many terms each time: a long row's rounding errors grow by their number.
inline constexpr int64_t kTerms = 32;

// Calls f(j) for every full vector of classes from j0 to j1 and f(j, count) for the rest.
template <typename A, typename F>
inline void each_vector(int64_t j0, int64_t j1, F&& f) {
  for (; j0 + kLanes<A> <= j1; j0 += kLanes<A>) f(j0);
  if (j0 < j1) f(j0, j1 - j0);
}

// Lanes from `count` on read as -inf, which neither a maximum nor a sum of exponentials feels.
template <typename T>
inline Vec<acc_t<T>> logits(const T* x) {
  return load(x);
}
template <typename T>
inline Vec<acc_t<T>> logits(const T* x, int64_t count) {
  using A = acc_t<T>;
  return first<A>(count) ? load(x, count) : splat<Vec<A>>(-std::numeric_limits<A>::infinity());
}

// Maximum and sum of exp(x - max) in one pass. Each lane has its own maximum, by which a group of vectors that exceeds
// it rescales the lane's sum, so that nothing waits for a reduction across lanes before the row's end. A maximum starts
// at the lowest finite number, which makes -inf a plain 0 and leaves NaN to the sum.
template <typename T>
void reduce_row_online(Softmax<acc_t<T>> out, int64_t i, const T* x, int64_t c) {
  using A = acc_t<T>;
  using V = Vec<A>;
  constexpr int64_t kGroup = 16 * kLanes<A>;
  V max = splat<V>(std::numeric_limits<A>::lowest()), sum{};
  for (int64_t j0 = 0; j0 < c; j0 += kGroup) {
    const int64_t j1 = std::min(c, j0 + kGroup);
    V top = max, group{};
    each_vector<A>(j0, j1, [&](int64_t j, auto... lanes) { top = ISA::max(logits(x + j, lanes...), top); });
    each_vector<A>(j0, j1, [&](int64_t j, auto... lanes) { group += exp(logits(x + j, lanes...) - top); });
    sum = sum * exp(max - top) + group;
    max = top;
  }
  const A highest = maximum(max);
  out.max[i] = highest;
  out.sum[i] = ISA::sum(sum * exp(max - highest));
}

// The same in two passes, since target weights multiply x - max itself.
template <Kind kKind, typename T>
void reduce_row(Softmax<acc_t<T>> out, int64_t i, const T* x, const ClassTarget<T>& target, int64_t c, int64_t p) {
  using A = acc_t<T>;
  using V = Vec<A>;
  if constexpr (kKind == Kind::kIndex) return reduce_row_online(out, i, x, c);
  V top = splat<V>(std::numeric_limits<A>::lowest()), sum{}, dot{}, q_sum{};
  each_vector<A>(0, c, [&](int64_t j, auto... lanes) { top = ISA::max(logits(x + j, lanes...), top); });
  const A max = maximum(top);
  for (int64_t j0 = 0; j0 < c; j0 += kTerms * kLanes<A>) {
    V sum1{}, dot1{}, q_sum1{};
    each_vector<A>(j0, std::min(c, j0 + kTerms * kLanes<A>), [&](int64_t j, auto... lanes) {
      V d = logits(x + j, lanes...) - max;
      sum1 += exp(d);
      if constexpr (sizeof...(lanes) > 0) d = first<A>(lanes...) ? d : V{};
      dot1 += target_weights<kKind>(target, c, p, j, lanes...) * d;
      if constexpr (kKind == Kind::kProbability) q_sum1 += given_weights(target, c, p, j, lanes...);
    });
    sum += sum1;
    dot += dot1;
    q_sum += q_sum1;
  }
  out.max[i] = max;
  out.sum[i] = ISA::sum(sum);
  out.dot[i] = ISA::sum(dot);
  out.q_sum[i] = ISA::sum(q_sum) * target.keep + target.even_total;
}

template <Kind kKind, typename T>
void gradient_row(T* dx, const T* x, Gradient<acc_t<T>> in, int64_t i, const ClassTarget<T>& target, int64_t c,
                  int64_t p) {
  using A = acc_t<T>;
  using V = Vec<A>;
  const A max = in.max[i], factor = in.softmax_factor[i], gradient = in.gradient[i];
  if (kKind != Kind::kProbability && in.index[i] < 0 && factor == 0) {  // ignored; where the softmax is NaN, factor is
    std::fill_n(dx, c, T(0));
    return;
  }
  auto value = [&](int64_t at, auto... lanes) {
    V v = exp(load(x + at, lanes...) - max) * factor;
    if constexpr (kKind != Kind::kIndex) v -= target_weights<kKind>(target, c, p, at, lanes...) * gradient;
    return v;
  };
  const int64_t t = in.index[i];
  const V at_index = t < 0 ? V{} : value(t, int64_t{1}) - in.at_index[i];  // before it is rounded to T; dx may be x
  each_vector<A>(0, c, [&](int64_t at, auto... lanes) { store(dx + at, value(at, lanes...), lanes...); });
  if (t >= 0) store(dx + t, at_index, int64_t{1});
}
}  // namespace torchext::cpu::ISA
#endif
