// Batch norm, ReLU and max-pooling, forward. The moments of a unit are taken in two sweeps over cached rows: its mean,
// then the squares about it, with the rounding of the mean taken back; so a mean far larger than the deviation costs no
// digits. The second pass normalises and pools: 2 x 2 windows side by side in registers, others by max_pool2d's kernels
// over rows normalised into scratch.
// Bill: x is read twice, s + 1 bytes an output are written. Bound by bandwidth.
#include "max_pool2d_kernels.h"
#include "sums.h"

namespace torchext::cpu::ISA {
template <typename A>
inline void put_moments(double* moments, A mean, A rest, A squares, int64_t count) {
  const double off = static_cast<double>(rest) / static_cast<double>(count);
  moments[0] = mean + off;
  moments[1] = squares - rest * off;
}

template <typename T>
void batch_norm_moments(double* moments, const T* x, BatchNormPool s, int64_t unit0, int64_t unit1) {
  using A = acc_t<T>;
  for (int64_t u = unit0; u < unit1; ++u) {
    const Unit unit(u, s);
    const int64_t pixels = unit.pixels(s);
    const T* from = x + unit.first(s);
    double* to = moments + 2 * (unit.part * s.channels + unit.channel);
    if (s.pool.channels == 1) {
      A sum[2];
      flat_sums(sum, pixels, [&]<int N>(int64_t i, auto& a, auto&) TORCHEXT_INLINE { a += load_lanes<N>(from + i); });
      const A mean = sum[0] / static_cast<A>(pixels);
      flat_sums(sum, pixels, [&]<int N>(int64_t i, auto& a, auto& b) TORCHEXT_INLINE {
        const auto v = load_lanes<N>(from + i) - mean;
        a += v, b += v * v;
      });
      put_moments(to, mean, sum[0], sum[1], pixels);
      continue;
    }
    over_lanes<kLanes<A>>(0, s.channels, [&]<int N>(int64_t c) TORCHEXT_INLINE {
      Vec<A, N> a, b;
      auto at = [&](int64_t i) TORCHEXT_INLINE { return load_lanes<N>(from + i * s.channels + c); };
      two_sums(a, b, pixels, [&](int64_t i, auto& a, auto&) TORCHEXT_INLINE { a += at(i); });
      const auto mean = a / static_cast<A>(pixels);
      two_sums(a, b, pixels, [&](int64_t i, auto& a, auto& b) TORCHEXT_INLINE {
        const auto v = at(i) - mean;
        a += v, b += v * v;
      });
      for (int i = 0; i < N; ++i) put_moments(to + 2 * (c + i), mean[i], a[i], b[i], pixels);
    });
  }
}

template <int N, bool Careful, typename T, typename A>
TORCHEXT_INLINE inline auto best_of_pair(const T* x, int64_t w, A scale, A shift) {
  Best<A, N, Careful> best(0);
  for (int r = 0; r < 2; ++r) {
    Vec<A, N> even, odd;
    load_pairs<N>(x + r * w, even, odd);
    best.see(even * scale + shift, 2 * r);
    best.see(odd * scale + shift, 2 * r + 1);
  }
  return best;
}

// What ReLU leaves of the maxima and of the taps they came from.
template <int N, typename T, typename V, typename I>
TORCHEXT_INLINE inline void store_rectified(T* y, uint8_t* offsets, V value, I tap) {
  store_lanes<N>(y, value <= 0 ? V{} : value);
  store_bytes<N>(offsets, value <= 0 ? splat<I>(static_cast<Int<acc_t<T>>>(kDead)) : tap);
}

template <int N, typename T, typename A>
__attribute__((noinline, cold)) void pair_careful(T* y, uint8_t* offsets, const T* x, int64_t w, A scale, A shift) {
  const auto best = best_of_pair<N, true>(x, w, scale, shift);
  store_rectified<N>(y, offsets, best.value, best.tap);
}

// 2 x 2 windows side by side that fit a whole number of times, contiguous.
template <typename T>
void normalise_pairs(T* y, uint8_t* offsets, const T* x, const acc_t<T>* affine, BatchNormPool s, int64_t row0,
                     int64_t row1) {
  using A = acc_t<T>;
  const int64_t ow = s.pool.ow, w = s.pool.w;
  int64_t plane = row0 / s.pool.oh, left = (plane + 1) * s.pool.oh - row0, c = plane % s.channels;
  for (int64_t row = row0; row < row1; ++row, --left) {
    if (left == 0) left = s.pool.oh, c = c + 1 == s.channels ? 0 : c + 1;
    const A scale = affine[c], shift = affine[s.channels + c];
    over_lanes<kLanes<A>>(0, ow, [&]<int N>(int64_t j) TORCHEXT_INLINE {
      const int64_t at = row * ow + j;
      const T* from = x + 2 * (row * w + j);
      const auto best = best_of_pair<N, false>(from, w, scale, shift);
      if (__builtin_expect(any_nan<N>(best.sum), false))
        return pair_careful<N>(y + at, offsets + at, from, w, scale, shift);
      store_rectified<N>(y + at, offsets + at, best.value, best.tap);
    });
  }
}

// f.operator()<N>(i, z): z at elements i to i + N of `pixels` pixels from x on, in channel c where planes have one.
template <typename T, typename F>
TORCHEXT_INLINE inline void over_normalised(const T* x, int64_t pixels, const acc_t<T>* affine, const BatchNormPool& s,
                                            int64_t c, F&& f) {
  constexpr int L = kLanes<acc_t<T>>;
  const auto *scale = affine, *shift = affine + s.channels;
  if (s.pool.channels == 1)
    return over_lanes<L>(0, pixels, [&]<int N>(int64_t i) TORCHEXT_INLINE {
      f.template operator()<N>(i, load_lanes<N>(x + i) * scale[c] + shift[c]);
    });
  for (int64_t first = 0; first < pixels * s.channels; first += s.channels)
    over_lanes<L>(0, s.channels, [&]<int N>(int64_t k) TORCHEXT_INLINE {
      const int64_t i = first + k;
      f.template operator()<N>(i, load_lanes<N>(x + i) * load_lanes<N>(scale + k) + load_lanes<N>(shift + k));
    });
}

// Any window: the rows under each row of outputs are normalised into scratch and pooled there.
template <typename T>
void normalise_rows(T* y, uint8_t* offsets, const T* x, const acc_t<T>* affine, BatchNormPool s, int64_t row0,
                    int64_t row1) {
  using A = acc_t<T>;
  const PoolShape& p = s.pool;
  const int64_t length = p.ow * p.channels;
  const bool single = p.kh == 1 && p.kw == 1 && p.sw == 1;
  Scratch<A> z(p.kh * p.w * p.channels), best(length);
  for (int64_t row = row0; row < row1; ++row) {
    const int64_t plane = row / p.oh, c = plane % s.channels;
    const Taps rows(row % p.oh, p.h, p.kh, p.sh, p.ph, 1);
    const int64_t inside = rows.last - rows.first;
    const T* from = x + (plane * p.h + rows.at + rows.first) * p.w * p.channels;
    T* to = y + row * length;
    uint8_t* taps = offsets + row * length;
    if (single) {
      over_normalised(from, p.w, affine, s, c, [&]<int N>(int64_t i, Vec<A, N> v) TORCHEXT_INLINE {
        store_rectified<N>(to + i, taps + i, v, Vec<Int<A>, N>{});
      });
      continue;
    }
    over_normalised(from, inside * p.w, affine, s, c,
                    [&]<int N>(int64_t i, Vec<A, N> v) TORCHEXT_INLINE { store_lanes<N>(z + i, v); });
    const PoolShape strip{.planes = 1,
                          .channels = p.channels,
                          .h = inside,
                          .w = p.w,
                          .oh = 1,
                          .ow = p.ow,
                          .kh = p.kh,
                          .kw = p.kw,
                          .sh = p.sh,
                          .sw = p.sw,
                          .ph = rows.first,
                          .pw = p.pw,
                          .dh = 1,
                          .dw = 1};
    ISA::max_pool2d<A>(best, taps, z, strip, 0, 1);
    over_lanes<kLanes<A>>(0, length, [&]<int N>(int64_t i) TORCHEXT_INLINE {
      store_rectified<N>(to + i, taps + i, load_lanes<N>(best + i), load_bytes<N, A>(taps + i));
    });
  }
}

inline bool in_pairs(const PoolShape& s) { return s.channels == 1 && s.kh == 2 && s.kw == 2 && fits_in_pairs(s); }

template <typename T>
void batch_norm_relu_max_pool2d(T* y, uint8_t* offsets, const T* x, const acc_t<T>* affine, BatchNormPool s,
                                int64_t row0, int64_t row1) {
  in_pairs(s.pool) ? normalise_pairs(y, offsets, x, affine, s, row0, row1)
                   : normalise_rows(y, offsets, x, affine, s, row0, row1);
}
}  // namespace torchext::cpu::ISA
#include "batch_norm_relu_max_pool2d_backward_kernels.h"

namespace torchext::cpu::ISA {
template <typename T>
inline constexpr BatchNormPoolKernels<T> kBatchNormPoolKernels{.moments = batch_norm_moments<T>,
                                                               .forward = batch_norm_relu_max_pool2d<T>,
                                                               .sums = batch_norm_sums<T>,
                                                               .backward = batch_norm_relu_max_pool2d_backward<T>};
}  // namespace torchext::cpu::ISA
