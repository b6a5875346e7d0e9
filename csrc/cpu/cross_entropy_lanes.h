// Cross-entropy where the lanes of a vector are positions: a tile [c, width] of accumulators is gathered first, from
// classes that lie s apart or by turning a block of rows on its side.
#ifndef TORCHEXT_CROSS_ENTROPY_LANES
#define TORCHEXT_CROSS_ENTROPY_LANES
#include "cross_entropy_rows.h"
#include "transpose.h"

namespace torchext::cpu::ISA {
// Where classes lie apart, a tile is four vectors wide: 256 bytes from each place,
// unless it would leave the second-level cache.
template <typename A>
inline int64_t tile_width(ClassShape s) {
  constexpr int64_t kTileBytes = 1 << 18;
  return s.s >= 2 * kLanes<A> && s.c * 4 * VECTOR_BYTES <= kTileBytes ? 4 * kLanes<A> : kLanes<A>;
}

// Calls f(p, count) for runs of at most `width` positions of one n, whose logits of one class lie side by side.
template <typename F>
inline void each_run(ClassShape s, int64_t p0, int64_t p1, int64_t width, F&& f) {
  for (int64_t p = p0, count; p < p1; p += count) {
    count = std::min(width, p1 - p);
    if (s.s > 1) count = std::min(count, s.s - p % s.s);
    f(p, count);
  }
}

// tile[j * width + l] = x at class j of position p + l; lanes from `count` on are 0.
template <typename T>
inline void gather(acc_t<T>* tile, int64_t width, const T* x, ClassShape s, int64_t p, int64_t count) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  if (s.s > 1) {
    const T* from = x + (p / s.s * s.c) * s.s + p % s.s;
    for (int64_t j = 0; j < s.c; ++j)
      each_vector<A>(
          0, count, [&](int64_t k, auto... lanes) { store(tile + j * width + k, load(from + j * s.s + k, lanes...)); });
    return;
  }
  const T *rows = x + p * s.c, *end = rows + count * s.c;
  for (int64_t j = 0; j < s.c; j += L) {
    Vec<A> block[L];
    for (int l = 0; l < L; ++l) {
      const T* from = rows + l * s.c + j;
      block[l] = l >= count ? Vec<A>{} : from + L <= end ? load(from) : load(from, end - from);
    }
    transpose(block);
    for (int i = 0; i < std::min<int64_t>(L, s.c - j); ++i) store(tile + (j + i) * width, block[i]);
  }
}

// The reverse. A row's last vector may run into the next row, whose part of that is written later,
// but not past the run's end.
template <typename T>
inline void scatter(T* x, const acc_t<T>* tile, int64_t width, ClassShape s, int64_t p, int64_t count) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  if (s.s > 1) {
    T* to = x + (p / s.s * s.c) * s.s + p % s.s;
    for (int64_t j = 0; j < s.c; ++j)
      each_vector<A>(0, count,
                     [&](int64_t k, auto... lanes) { store(to + j * s.s + k, load(tile + j * width + k), lanes...); });
    return;
  }
  const T* end = x + (p + count) * s.c;
  for (int64_t j = (s.c - 1) / L * L; j >= 0; j -= L) {
    const int64_t classes = std::min<int64_t>(L, s.c - j);
    Vec<A> block[L];
    for (int i = 0; i < L; ++i) block[i] = i < classes ? load(tile + (j + i) * width) : Vec<A>{};
    transpose(block);
    for (int l = 0; l < count; ++l) {
      T* to = x + (p + l) * s.c + j;
      if (to + L <= end)
        store(to, block[l]);
      else
        store(to, block[l], end - to);
    }
  }
}

template <Kind kKind, typename T>
inline Vec<acc_t<T>> lane_weights(const ClassTarget<T>& target, const acc_t<T>* probability, int64_t j,
                                  int64_t offset) {
  using V = Vec<acc_t<T>>;
  if constexpr (kKind == Kind::kSmoothedIndex) return splat<V>(target.weight[j] * target.even);
  return (load(probability + offset) * target.keep + target.even) * target.weight[j];
}

template <Kind kKind, typename T>
void reduce_lanes(Softmax<acc_t<T>> out, const T* x, const ClassTarget<T>& target, ClassShape s, int64_t p0,
                  int64_t p1) {
  using A = acc_t<T>;
  using V = Vec<A>;
  const int64_t width = tile_width<A>(s), size = s.c * width;
  Scratch<A> tile(size), probability(kKind == Kind::kProbability ? size : 0);
  each_run(s, p0, p1, width, [&](int64_t p, int64_t count) {
    gather(static_cast<A*>(tile), width, x, s, p, count);
    if constexpr (kKind == Kind::kProbability)
      gather(static_cast<A*>(probability), width, target.probability, s, p, count);
    each_vector<A>(0, count, [&](int64_t k, auto... lanes) {
      V max = splat<V>(std::numeric_limits<A>::lowest()), sum{}, dot{}, q_sum{};
      for (int64_t j = 0; j < s.c; ++j) max = ISA::max(load(tile + j * width + k), max);
      for (int64_t j0 = 0; j0 < s.c; j0 += kTerms) {
        V sum1{}, dot1{}, q_sum1{};
        for (int64_t j = j0; j < std::min(s.c, j0 + kTerms); ++j) {
          const V d = load(tile + j * width + k) - max;
          sum1 += exp(d);
          if constexpr (kKind != Kind::kIndex) dot1 += lane_weights<kKind>(target, probability, j, j * width + k) * d;
          if constexpr (kKind == Kind::kProbability) q_sum1 += load(probability + j * width + k) * target.weight[j];
        }
        sum += sum1;
        dot += dot1;
        q_sum += q_sum1;
      }
      const int64_t i = p - p0 + k;
      store(out.max + i, max, lanes...);
      store(out.sum + i, sum, lanes...);
      store(out.dot + i, dot, lanes...);
      store(out.q_sum + i, q_sum * target.keep + target.even_total, lanes...);
    });
  });
}

template <Kind kKind, typename T>
void gradient_lanes(T* dx, const T* x, Gradient<acc_t<T>> in, const ClassTarget<T>& target, ClassShape s, int64_t p0,
                    int64_t p1) {
  using A = acc_t<T>;
  using V = Vec<A>;
  const int64_t width = tile_width<A>(s), size = s.c * width;
  Scratch<A> tile(size), probability(kKind == Kind::kProbability ? size : 0);
  each_run(s, p0, p1, width, [&](int64_t p, int64_t count) {
    gather(static_cast<A*>(tile), width, x, s, p, count);
    if constexpr (kKind == Kind::kProbability)
      gather(static_cast<A*>(probability), width, target.probability, s, p, count);
    const int64_t i = p - p0;
    each_vector<A>(0, count, [&](int64_t k, auto... lanes) {
      const V max = load(in.max + i + k, lanes...), factor = load(in.softmax_factor + i + k, lanes...);
      const V gradient = load(in.gradient + i + k, lanes...), at_index = load(in.at_index + i + k, lanes...);
      const auto index = bits<Vec<Lane<A>>>(load(reinterpret_cast<const A*>(in.index + i + k), lanes...));
      for (int64_t j = 0; j < s.c; ++j) {
        A* at = tile + j * width + k;
        V v = exp(load(at) - max) * factor;
        if constexpr (kKind != Kind::kIndex) v -= lane_weights<kKind>(target, probability, j, j * width + k) * gradient;
        if constexpr (kKind != Kind::kProbability) v -= index == static_cast<Lane<A>>(j) ? at_index : V{};
        store(at, v);
      }
    });
    scatter(dx, static_cast<const A*>(tile), width, s, p, count);
  });
}
}  // namespace torchext::cpu::ISA
#endif
