// Max-pooling forward. A vector holds neighbouring outputs of a row (contiguous) or of a pixel (channels last), another
// the taps that won so far; a tap costs a load, a comparison and two selects, and both vectors are stored once. NaN
// costs an addition: every value is also summed, and only where the sum is NaN is the vector pooled again with care.
// Bill: x is read once from memory (kh / sh times from cache), s + 1 bytes an output are written. Bound by instructions
// in cache, by bandwidth beyond it.
#include "lanes.h"
#include "max_pool2d_backward_kernels.h"

namespace torchext::cpu::ISA {
// Where the taps of one vector of outputs are: tap (r, t) of lane i at x[r row + t tap + i lane].
struct TapSteps {
  int64_t kw, row, tap, lane;
};
// The taps that lie inside the input: r in [r0, r1), t in [t0, t1).
struct TapRange {
  int64_t r0, r1, t0, t1;
};

// The best value seen so far and its tap. The first of equals wins; with Careful, the last NaN.
template <typename A, int N, bool Careful>
struct Best {
  using Index = Vec<Int<A>, N>;
  Vec<A, N> value = splat<Vec<A, N>>(-std::numeric_limits<A>::infinity());
  Vec<A, N> sum{};
  Index tap;

  explicit Best(int64_t first) : tap(splat<Index>(static_cast<Int<A>>(first))) {}
  void see(Vec<A, N> v, int64_t t) {
    auto wins = v > value;
    if constexpr (Careful)
      wins |= v != v;
    else
      sum += v;
    value = wins ? v : value;
    tap = wins ? splat<Index>(static_cast<Int<A>>(t)) : tap;
  }
};

// x[0], x[step], x[2 step], ...; Lane is step where it is known, else 0.
template <int N, int Lane, typename T>
inline Vec<acc_t<T>, N> load_every(const T* x, int64_t step) {
  if constexpr (Lane == 1) return load_lanes<N>(x);
  if constexpr (Lane == 2) return load_even<N>(x);
  Vec<acc_t<T>, N> v;
  for (int i = 0; i < N; ++i) v[i] = static_cast<acc_t<T>>(x[i * step]);
  return v;
}

// K: the window is K x K, whole, without dilation, so that all is unrolled; or 0.
template <int N, int K, int Lane, bool Careful, typename T>
TORCHEXT_INLINE inline auto best_of(const T* x, TapRange in, TapSteps step) {
  using A = acc_t<T>;
  if (K) in = {0, K, 0, K}, step.kw = K;
  Best<A, N, Careful> best(in.r0 * step.kw + in.t0);
  for (int64_t r = in.r0; r < in.r1; ++r) {
    const T* p = x + r * step.row;
    int64_t t = in.t0;
    if constexpr (K > 1 && Lane == 2)
      for (; t + 1 < K; t += 2) {
        Vec<A, N> even, odd;
        load_pairs<N>(p + t, even, odd);
        best.see(even, r * K + t);
        best.see(odd, r * K + t + 1);
      }
    for (; t < in.t1; ++t)
      best.see(load_every<N, Lane>(p + t * (K && Lane ? (Lane == 2 ? 1 : step.tap) : step.tap), step.lane),
               r * step.kw + t);
  }
  return best;
}

template <int N, int Lane, typename T>
__attribute__((noinline, cold)) void pool_careful(T* y, uint8_t* offsets, const T* x, TapRange in, TapSteps step) {
  const auto best = best_of<N, 0, Lane, true>(x, in, step);
  store_lanes<N>(y, best.value);
  if (offsets) store_bytes<N>(offsets, best.tap);
}

// N outputs, of whose taps the same lie inside.
template <int N, int K, int Lane, typename T>
TORCHEXT_INLINE inline void pool_lanes(T* y, uint8_t* offsets, const T* x, TapRange in, TapSteps step) {
  const auto best = best_of<N, K, Lane, false>(x, in, step);
  if (__builtin_expect(any_nan<N>(best.sum), false)) return pool_careful<N, Lane>(y, offsets, x, in, step);
  store_lanes<N>(y, best.value);
  if (offsets) store_bytes<N>(offsets, best.tap);
}

// One output of a contiguous plane, wherever it is.
template <typename T>
inline void pool_one(T* y, uint8_t* offset, const T* plane, Taps rows, int64_t j, const PoolShape& s) {
  using A = acc_t<T>;
  const Taps columns(j, s.w, s.kw, s.sw, s.pw, s.dw);
  A best = -std::numeric_limits<A>::infinity();
  int64_t tap = rows.first < rows.last && columns.first < columns.last ? rows.first * s.kw + columns.first : kDead;
  for (int64_t r = rows.first; r < rows.last; ++r)
    for (int64_t t = columns.first; t < columns.last; ++t) {
      const A v = static_cast<A>(plane[(rows.at + r * s.dh) * s.w + columns.at + t * s.dw]);
      const bool wins = (v > best) | (v != v);
      best = wins ? v : best;
      tap = wins ? r * s.kw + t : tap;
    }
  *y = static_cast<T>(best);
  if (offset) *offset = static_cast<uint8_t>(tap);
}

template <int K, int Lane, typename T>
void pool_rows(T* y, uint8_t* offsets, const T* x, PoolShape s, int64_t row0, int64_t row1) {
  constexpr int L = kLanes<acc_t<T>>;
  const int64_t reach = s.w - 1 - (s.kw - 1) * s.dw + s.pw;  // the last output whose taps are all inside begins here
  const int64_t begin = std::min(s.ow, (s.pw + s.sw - 1) / s.sw);
  const int64_t end = reach < 0 ? begin : std::max(begin, std::min(s.ow, reach / s.sw + 1));
  const TapSteps step{s.kw, s.dh * s.w, s.dw, s.sw};
  const T* plane = x + row0 / s.oh * s.h * s.w;
  for (int64_t row = row0, i = row0 % s.oh; row < row1; ++row, ++i) {
    if (i == s.oh) i = 0, plane += s.h * s.w;
    const Taps rows(i, s.h, s.kh, s.sh, s.ph, s.dh);
    const TapRange in{rows.first, rows.last, 0, s.kw};
    const T* p = plane + rows.at * s.w - s.pw;
    T* out = y + row * s.ow;
    uint8_t* tap = offsets ? offsets + row * s.ow : nullptr;
    auto one = [&](int64_t j) { pool_one(out + j, tap ? tap + j : nullptr, plane, rows, j, s); };
    auto lanes = [&]<int N, int Unrolled>(int64_t j) TORCHEXT_INLINE {
      pool_lanes<N, Unrolled, Lane>(out + j, tap ? tap + j : nullptr, p + j * s.sw, in, step);
    };
    const int64_t left = rows.first < rows.last ? begin : s.ow, right = std::max(left, end);
    for (int64_t j = 0; j < left; ++j) one(j);
    if (K && rows.first == 0 && rows.last == s.kh)
      over_lanes<L>(left, right, [&]<int N>(int64_t j) TORCHEXT_INLINE { lanes.template operator()<N, K>(j); });
    else
      over_lanes<L>(left, right, [&]<int N>(int64_t j) TORCHEXT_INLINE { lanes.template operator()<N, 0>(j); });
    for (int64_t j = right; j < s.ow; ++j) one(j);
  }
}

// 2 x 2 windows side by side that fit a whole number of times: no borders, and rows of outputs follow one another. Rows
// shorter than a vector are pooled by one vector all the same: what it writes beyond its row,
// the next row writes again.
template <int N, typename T>
void pool_pairs(T* y, uint8_t* offsets, const T* x, PoolShape s, int64_t row0, int64_t row1) {
  const int64_t beyond = s.ow < N ? (N - 1) / s.ow : 0;  // the rows at the end that would write past it
  const TapSteps step{2, s.w, 1, 2};
  for (int64_t row = row0; row < row1; ++row)
    over_lanes<N>(0, row < row1 - beyond ? std::max<int64_t>(N, s.ow) : s.ow, [&]<int M>(int64_t j) TORCHEXT_INLINE {
      const int64_t at = row * s.ow + j;
      pool_lanes<M, 2, 2>(y + at, offsets ? offsets + at : nullptr, x + row * 2 * s.w + 2 * j, {0, 2, 0, 2}, step);
    });
}

template <int K, typename T>
void pool_pixels(T* y, uint8_t* offsets, const T* x, PoolShape s, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  const TapSteps step{s.kw, s.dh * s.w * s.channels, s.dw * s.channels, 1};
  const T* plane = x + row0 / s.oh * s.h * s.w * s.channels;
  for (int64_t row = row0, i = row0 % s.oh; row < row1; ++row, ++i) {
    if (i == s.oh) i = 0, plane += s.h * s.w * s.channels;
    const Taps rows(i, s.h, s.kh, s.sh, s.ph, s.dh);
    for (int64_t j = 0; j < s.ow; ++j) {
      const Taps columns(j, s.w, s.kw, s.sw, s.pw, s.dw);
      const TapRange in{rows.first, rows.last, columns.first, columns.last};
      const T* p = plane + (rows.at * s.w + columns.at) * s.channels;
      T* out = y + (row * s.ow + j) * s.channels;
      uint8_t* tap = offsets ? offsets + (row * s.ow + j) * s.channels : nullptr;
      if (in.r0 >= in.r1 || in.t0 >= in.t1) {
        std::fill_n(out, s.channels, static_cast<T>(-std::numeric_limits<A>::infinity()));
        if (tap) std::fill_n(tap, s.channels, kDead);
      } else if (K && in.r1 - in.r0 == s.kh && in.t1 - in.t0 == s.kw) {
        over_lanes<kLanes<A>>(0, s.channels, [&]<int N>(int64_t c) TORCHEXT_INLINE {
          pool_lanes<N, K, 1>(out + c, tap ? tap + c : nullptr, p + c, in, step);
        });
      } else {
        over_lanes<kLanes<A>>(0, s.channels, [&]<int N>(int64_t c) TORCHEXT_INLINE {
          pool_lanes<N, 0, 1>(out + c, tap ? tap + c : nullptr, p + c, in, step);
        });
      }
    }
  }
}

template <typename T>
void max_pool2d(T* y, uint8_t* offsets, const T* x, PoolShape s, int64_t row0, int64_t row1) {
  constexpr int L = kLanes<acc_t<T>>;
  if (max_pool2d_planes<T>(s)) return pool_planes(y, offsets, x, s, row0 / s.oh, row1 / s.oh);
  auto with = [&](auto pool) { pool(y, offsets, x, s, row0, row1); };
  auto square = [&](int64_t k) { return s.kh == k && s.kw == k && s.dh == 1 && s.dw == 1; };
  if (fits_in_quads<T>(s)) return with(pool_quads<T>);
  if (s.channels > 1)
    return square(2) ? with(pool_pixels<2, T>) : square(3) ? with(pool_pixels<3, T>) : with(pool_pixels<0, T>);
  if (square(2) && fits_in_pairs(s))
    return s.ow > L / 2   ? with(pool_pairs<L, T>)
           : s.ow > L / 4 ? with(pool_pairs<L / 2, T>)
                          : with(pool_pairs<std::max(1, L / 4), T>);
  if (s.sw == 2)
    return square(2) ? with(pool_rows<2, 2, T>) : square(3) ? with(pool_rows<3, 2, T>) : with(pool_rows<0, 2, T>);
  if (s.sw == 1) return square(3) ? with(pool_rows<3, 1, T>) : with(pool_rows<0, 1, T>);
  with(pool_rows<0, 0, T>);
}

template <typename T>
inline constexpr PoolKernels<T> kPoolKernels{
    .planes = max_pool2d_planes<T>, .forward = max_pool2d<T>, .backward = max_pool2d_backward<T>};
}  // namespace torchext::cpu::ISA
