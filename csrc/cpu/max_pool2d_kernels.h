// Max-pooling forward. One vector holds neighbouring outputs of a row (contiguous) or of a pixel (channels last), another the
// taps that won so far; every tap is a load, two comparisons and two selects, and both vectors are stored once.
// Bill: x is read once from memory (kh / sh times from cache), s + 1 bytes an output are written. Bound by instructions in
// cache, by bandwidth beyond it.
#include "lanes.h"
#include "max_pool2d_backward_kernels.h"

namespace torchext::cpu::ISA {
// The best value seen so far and its tap: the first of equals wins, and the last NaN.
template <typename A, int N>
struct Best {
  Vec<A, N> value = splat<Vec<A, N>>(-std::numeric_limits<A>::infinity());
  Vec<Int<A>, N> tap;

  void see(Vec<A, N> v, int64_t t) {
    const auto wins = (v > value) | (v != v);
    value = wins ? v : value;
    tap = wins ? splat<decltype(tap)>(static_cast<Int<A>>(t)) : tap;
  }
  template <typename T>
  void store(T* y, uint8_t* offsets) const {
    store_lanes<N>(y, value);
    if (offsets) store_bytes<N>(offsets, tap);
  }
};

// p[0], p[step], p[2 step], ...; Step is step where it is known, else 0.
template <int N, int Step, typename T>
inline Vec<acc_t<T>, N> load_every(const T* p, int64_t step) {
  if constexpr (Step == 1) return load_lanes<N>(p);
  if constexpr (Step == 2) return load_even<N>(p);
  Vec<acc_t<T>, N> v;
  for (int i = 0; i < N; ++i) v[i] = static_cast<acc_t<T>>(p[i * step]);
  return v;
}

// N outputs of a contiguous row from taps [r0, r1) x [0, kw), all inside; x is at tap (0, 0) of the first.
// K: kh = kw = K with dilation 1 and r0 = 0, r1 = K, so that all is unrolled; or 0.
template <int N, int K, int Step, typename T>
inline void pool_lanes(T* y, uint8_t* offsets, const T* x, int64_t r0, int64_t r1, const PoolShape& s) {
  using A = acc_t<T>;
  const int64_t kw = K ? K : s.kw, dw = K ? 1 : s.dw, row_step = K ? s.w : s.dh * s.w;
  if (K) r0 = 0, r1 = K;
  Best<A, N> best;
  best.tap = splat<decltype(best.tap)>(static_cast<Int<A>>(r0 * kw));
  for (int64_t r = r0; r < r1; ++r) {
    const T* p = x + r * row_step;
    int64_t t = 0;
    if constexpr (K > 1 && Step == 2)
      for (; t + 1 < K; t += 2) {
        Vec<A, N> even, odd;
        load_pairs<N>(p + t, even, odd);
        best.see(even, r * kw + t);
        best.see(odd, r * kw + t + 1);
      }
    for (; t < kw; ++t) best.see(load_every<N, Step>(p + t * dw, s.sw), r * kw + t);
  }
  best.store(y, offsets);
}

// The taps of output o that lie inside: first, first + 1, ..., last - 1 (none: first >= last), and where tap 0 lies.
struct Taps {
  int64_t at, first, last;
  Taps(int64_t o, int64_t size, int64_t k, int64_t stride, int64_t pad, int64_t dilation)
      : at(o * stride - pad),
        first(at < 0 ? (-at + dilation - 1) / dilation : 0),
        last(at + (k - 1) * dilation < size ? k : at < size ? (size - at + dilation - 1) / dilation : 0) {}
};

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
      if (v > best || v != v) best = v, tap = r * s.kw + t;
    }
  *y = static_cast<T>(best);
  if (offset) *offset = static_cast<uint8_t>(tap);
}

template <int K, int Step, typename T>
void pool_rows(T* y, uint8_t* offsets, const T* x, const PoolShape& s, int64_t row0, int64_t row1) {
  constexpr int L = kLanes<acc_t<T>>;
  const int64_t reach = s.w - 1 - (s.kw - 1) * s.dw + s.pw;  // the last output whose taps are all inside begins here
  const int64_t begin = std::min(s.ow, (s.pw + s.sw - 1) / s.sw);
  const int64_t end = reach < 0 ? begin : std::max(begin, std::min(s.ow, reach / s.sw + 1));
  const T* plane = x + row0 / s.oh * s.h * s.w;
  for (int64_t row = row0, i = row0 % s.oh; row < row1; ++row, ++i) {
    if (i == s.oh) i = 0, plane += s.h * s.w;
    const Taps rows(i, s.h, s.kh, s.sh, s.ph, s.dh);
    T* out = y + row * s.ow;
    uint8_t* tap = offsets ? offsets + row * s.ow : nullptr;
    auto one = [&](int64_t j) { pool_one(out + j, tap ? tap + j : nullptr, plane, rows, j, s); };
    const bool whole = rows.first == 0 && rows.last == s.kh;
    const bool none = rows.first >= rows.last;
    for (int64_t j = 0; j < (none ? s.ow : begin); ++j) one(j);
    if (none) continue;
    over_lanes<L>(begin, end, [&]<int N>(int64_t j) {
      const T* p = plane + rows.at * s.w + j * s.sw - s.pw;
      uint8_t* t = tap ? tap + j : nullptr;
      if (K && whole)
        pool_lanes<N, K, Step>(out + j, t, p, 0, s.kh, s);
      else
        pool_lanes<N, 0, Step>(out + j, t, p, rows.first, rows.last, s);
    });
    for (int64_t j = end; j < s.ow; ++j) one(j);
  }
}

template <typename T>
void pool_pixels(T* y, uint8_t* offsets, const T* x, const PoolShape& s, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  const T* plane = x + row0 / s.oh * s.h * s.w * s.channels;
  for (int64_t row = row0, i = row0 % s.oh; row < row1; ++row, ++i) {
    if (i == s.oh) i = 0, plane += s.h * s.w * s.channels;
    const Taps rows(i, s.h, s.kh, s.sh, s.ph, s.dh);
    for (int64_t j = 0; j < s.ow; ++j) {
      const Taps columns(j, s.w, s.kw, s.sw, s.pw, s.dw);
      const int64_t at = (row * s.ow + j) * s.channels;
      const bool dead = rows.first >= rows.last || columns.first >= columns.last;
      const int64_t first = dead ? kDead : rows.first * s.kw + columns.first;
      over_lanes<kLanes<A>>(0, s.channels, [&]<int N>(int64_t c) {
        Best<A, N> best;
        best.tap = splat<decltype(best.tap)>(static_cast<Int<A>>(first));
        for (int64_t r = rows.first; r < rows.last; ++r) {
          const T* p = plane + ((rows.at + r * s.dh) * s.w + columns.at) * s.channels + c;
          for (int64_t t = columns.first; t < columns.last; ++t)
            best.see(load_lanes<N>(p + t * s.dw * s.channels), r * s.kw + t);
        }
        best.store(y + at + c, offsets ? offsets + at + c : nullptr);
      });
    }
  }
}

template <typename T>
void max_pool2d(T* y, uint8_t* offsets, const T* x, const PoolShape& s, int64_t row0, int64_t row1) {
  auto square = [&](int64_t k) { return s.kh == k && s.kw == k && s.dh == 1 && s.dw == 1; };
  auto rows = [&]<int K, int Step>() { pool_rows<K, Step>(y, offsets, x, s, row0, row1); };
  if (s.channels > 1) return pool_pixels(y, offsets, x, s, row0, row1);
  if (s.sw == 2 && square(2)) return rows.template operator()<2, 2>();
  if (s.sw == 2 && square(3)) return rows.template operator()<3, 2>();
  if (s.sw == 2) return rows.template operator()<0, 2>();
  if (s.sw == 1) return rows.template operator()<0, 1>();
  rows.template operator()<0, 0>();
}
}  // namespace torchext::cpu::ISA
