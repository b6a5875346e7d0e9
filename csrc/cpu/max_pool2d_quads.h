// Max-pooling of 2 x 2 windows side by side that fit a whole number of times, channels last and in whole vectors: each
// vector of outputs has four of inputs to itself. x is read and y and dx are written once, dy is read twice, with
// nothing but vectors in the innermost loop; the kernels of any window take 1.5 to 1.8 times as long.
#ifndef TORCHEXT_MAX_POOL2D_QUADS
#define TORCHEXT_MAX_POOL2D_QUADS
#include "lanes.h"

namespace torchext::cpu::ISA {
template <typename T>
inline bool fits_in_quads(const PoolShape& s) {
  return s.kh == 2 && s.kw == 2 && s.sh == 2 && s.sw == 2 && s.dh == 1 && s.dw == 1 && s.ph == 0 && s.pw == 0 &&
         s.w == 2 * s.ow && s.h == 2 * s.oh && s.channels > 1 && s.channels % kLanes<acc_t<T>> == 0;
}

// f(output, input) for the first elements of every vector of outputs in rows [row0, row1), and of its first input.
template <typename T, typename F>
TORCHEXT_INLINE inline void over_quads(const PoolShape& s, int64_t row0, int64_t row1, F&& f) {
  const int64_t channels = s.channels;
  for (int64_t row = row0; row < row1; ++row)
    for (int64_t o = row * s.ow * channels, i = 4 * o, end = o + s.ow * channels; o < end; i += channels)
      for (int64_t pixel = o + channels; o < pixel; o += kLanes<acc_t<T>>, i += kLanes<acc_t<T>>) f(o, i);
}

template <typename T>
void pool_quads(T* y, uint8_t* offsets, const T* x, PoolShape s, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  const int64_t right = s.channels, down = s.w * s.channels;
  over_quads<T>(s, row0, row1, [&](int64_t o, int64_t i) TORCHEXT_INLINE {
    const Vec<A> v[4] = {load(x + i), load(x + i + right), load(x + i + down), load(x + i + down + right)};
    Vec<A> best = v[0];
    Vec<Int<A>, L> tap{};
    if (__builtin_expect(any_nan<L>((v[0] + v[1]) + (v[2] + v[3])), false)) {
      for (int t = 1; t < 4; ++t) {
        const auto wins = (v[t] > best) | (v[t] != v[t]);  // the last NaN
        best = wins ? v[t] : best, tap = wins ? splat<Vec<Int<A>, L>>(static_cast<Int<A>>(t)) : tap;
      }
    } else {
      const auto low = v[1] > v[0], high = v[3] > v[2];
      const Vec<A> upper = low ? v[1] : v[0], lower = high ? v[3] : v[2];
      const auto below = lower > upper;
      best = below ? lower : upper;
      tap = below ? 2 - high : -low;  // a comparison is -1 where it holds
    }
    store<T>(y + o, best);
    if (offsets) store_bytes<L>(offsets + o, tap);
  });
}

// Rows [row0, row1) of outputs, and the two rows of dx below each: one after the other, since dx is mostly fresh
// memory, where two rows at a time took half as long again.
template <typename T>
void unpool_quads(T* dx, const T* dy, const uint8_t* offsets, PoolShape s, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  for (int64_t row = 2 * row0; row < 2 * row1; ++row) {
    const Int<A> first = row % 2 * 2;  // of this row's two taps
    const int64_t down = row % 2 * s.w * s.channels, right = s.channels;
    over_quads<T>(s, row / 2, row / 2 + 1, [&](int64_t o, int64_t i) TORCHEXT_INLINE {
      const Vec<A> g = load(dy + o);
      const auto tap = load_bytes<L, A>(offsets + o);
      store<T>(dx + i + down, tap == first ? g : Vec<A>{});
      store<T>(dx + i + down + right, tap == first + 1 ? g : Vec<A>{});
    });
  }
}
}  // namespace torchext::cpu::ISA
#endif
