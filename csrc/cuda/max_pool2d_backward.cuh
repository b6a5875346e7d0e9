// Max-pooling backward: every element of dx is written once, by one thread, so there are no zeros first and no atomics.
// Where no window overlaps another a thread has one output and writes all that stands above it, zeros included; where
// they overlap a thread has an element of dx and gathers, in the order of the outputs, from those whose offset names
// it. Bill: dy and its offsets are read once (gather: kh kw / (sh sw) times, mostly from cache), dx is written
// once. Bound by bandwidth.
#pragma once
#include "max_pool2d_places.cuh"

namespace torchext::cuda {
template <typename T>
struct UnpoolArguments {
  T* dx;
  const T* dy;
  const uint8_t* offsets;
  PoolShape s;
  Places places;
  Divisor sh, sw, dh, dw;
};

// dy where its offset is `tap`, else 0.
template <typename T, int N>
__device__ __forceinline__ Pack<T, N> named(const Pack<T, N>& dy, const Pack<uint8_t, N>& offsets, int tap) {
  Pack<T, N> g;
#pragma unroll
  for (int e = 0; e < N; ++e) g[e] = offsets[e] == tap ? dy[e] : T(0);
  return g;
}

// 2 x 2 windows side by side along a row: a thread writes kWide elements of each of two rows.
template <typename T, int kWide>
__global__ void __launch_bounds__(kPoolThreads) unpool_pairs_kernel(UnpoolArguments<T> a) {
  constexpr int kOut = kWide / 2;
  const int64_t n = Places::number();
  if (n >= a.places.count) return;
  const Place at = a.places(n);
  Pack<T, kOut> dy;
  Pack<uint8_t, kOut> offsets;
#pragma unroll
  for (int e = 0; e < kOut; ++e) dy[e] = T(0), offsets[e] = kDead;
  if (at.i < a.s.oh) {  // else a row that no window reaches
    const int64_t from = (at.plane * a.s.oh + at.i) * a.s.ow + at.j * kOut;
    dy = load_once<kOut>(a.dy + from);
    offsets = load_once<kOut>(a.offsets + from);
  }
  Pack<T, kWide> rows[2];
#pragma unroll
  for (int tap = 0; tap < 4; ++tap) {
    const Pack<T, kOut> g = named(dy, offsets, tap);
#pragma unroll
    for (int e = 0; e < kOut; ++e) rows[tap / 2][2 * e + tap % 2] = g[e];
  }
  T* dx = a.dx + (at.plane * a.s.h + 2 * at.i) * a.s.w + at.j * kWide;
  store_once(dx, rows[0]);
  if (2 * at.i + 1 < a.s.h) store_once(dx + a.s.w, rows[1]);
}

// Windows that do not overlap: a thread writes the sh x sw elements between this window's corner and the next ones'.
template <typename T, int kWide>
__global__ void __launch_bounds__(kPoolThreads) unpool_patches_kernel(UnpoolArguments<T> a) {
  const PoolShape& s = a.s;
  const int64_t n = Places::number();
  if (n >= a.places.count) return;
  const Place at = a.places(n);
  const int64_t p = at.i * s.sh - s.ph, q = at.j * s.sw - s.pw, c = at.pack * kWide;
  Pack<T, kWide> dy;
  Pack<uint8_t, kWide> offsets;
#pragma unroll
  for (int e = 0; e < kWide; ++e) dy[e] = T(0), offsets[e] = kDead;
  if (at.i < s.oh && at.j < s.ow) {  // else beyond the last window
    const int64_t from = ((at.plane * s.oh + at.i) * s.ow + at.j) * s.channels + c;
    dy = load_once<kWide>(a.dy + from);
    offsets = load_once<kWide>(a.offsets + from);
  }
  for (int64_t r = p < 0 ? -p : 0; r < s.sh && p + r < s.h; ++r)
    for (int64_t t = q < 0 ? -q : 0; t < s.sw && q + t < s.w; ++t) {
      const int tap = r < s.kh && t < s.kw ? static_cast<int>(r * s.kw + t) : -1;
      store(a.dx + ((at.plane * s.h + p + r) * s.w + q + t) * s.channels + c, named(dy, offsets, tap));
    }
}

// The outputs [first, last) one of whose taps can be input p.
struct Covering {
  int64_t first, last;
  __device__ __forceinline__ Covering(int64_t p, int64_t outputs, int64_t k, int64_t pad, int64_t dilation,
                                      const Divisor& by) {
    const int64_t reach = p + pad - (k - 1) * dilation, end = by.quotient(p + pad) + 1;
    first = reach > 0 ? by.quotient_up(reach) : 0;
    last = end < outputs ? end : outputs;
  }
};

// Any window; without dilation, any output above is at a tap.
template <typename T, int kWide, bool kDilated>
__global__ void __launch_bounds__(kPoolThreads, 4) unpool_gather_kernel(UnpoolArguments<T> a) {
  using A = acc_t<T>;
  const PoolShape& s = a.s;
  const int64_t n = Places::number();
  if (n >= a.places.count) return;
  const Place at = a.places(n);
  const Covering rows(at.i, s.oh, s.kh, s.ph, s.dh, a.sh), columns(at.j, s.ow, s.kw, s.pw, s.dw, a.sw);
  const int64_t c = at.pack * kWide, i_count = rows.last - rows.first, j_count = columns.last - columns.first;
  int64_t from_row = ((at.plane * s.oh + rows.first) * s.ow + columns.first) * s.channels + c;
  int64_t r_distance = at.i + s.ph - rows.first * s.sh;
  A sum[kWide] = {};
#pragma unroll 1
  for (int64_t i = 0; i < i_count; ++i, from_row += s.ow * s.channels, r_distance -= s.sh) {
    int64_t r = r_distance;
    if (kDilated && a.dh.split(r)) continue;
    int64_t from = from_row, t_distance = at.j + s.pw - columns.first * s.sw;
#pragma unroll(kDilated ? 1 : 2)
    for (int64_t j = 0; j < j_count; ++j, from += s.channels, t_distance -= s.sw) {
      int64_t t = t_distance;
      if (kDilated && a.dw.split(t)) continue;
      const int tap = static_cast<int>(r) * static_cast<int>(s.kw) + static_cast<int>(t);
      const Pack<T, kWide> g = named(load<kWide>(a.dy + from), load<kWide>(a.offsets + from), tap);
#pragma unroll
      for (int e = 0; e < kWide; ++e) sum[e] += static_cast<A>(g[e]);
    }
  }
  Pack<T, kWide> dx;
#pragma unroll
  for (int e = 0; e < kWide; ++e) dx[e] = static_cast<T>(sum[e]);
  store_once(a.dx + ((at.plane * s.h + at.i) * s.w + at.j) * s.channels + c, dx);
}

template <typename T>
void unpool(T* dx, const T* dy, const uint8_t* offsets, const PoolShape& s, void* stream) {
  const auto arguments = [&](int64_t rows, int64_t columns, int64_t packs) {
    return UnpoolArguments<T>{
        dx,           dy, offsets, s, {s.planes, rows, columns, packs}, Divisor(s.sh), Divisor(s.sw), Divisor(s.dh),
        Divisor(s.dw)};
  };
  const auto pairs = [&]<int kWide>() {
    const auto a = arguments(ceil_div(s.h, 2), s.w / kWide, 1);
    launch<unpool_pairs_kernel<T, kWide>>(a.places.grid(), kPoolThreads, 0, stream, a);
  };
  if (in_pairs(s) && run_in_pairs(dx, dy, offsets, s, pairs)) return;
  // Far apart in a contiguous plane: side by side threads would write far from one another.
  const bool near = s.channels > 1 || s.sw <= 4;
  const bool apart = s.kh <= s.sh && s.kw <= s.sw && s.dh == 1 && s.dw == 1;
  run_along_channels(dx, dy, offsets, s, [&]<int kWide>() {
    if (apart && near) {
      const auto a = arguments(ceil_div(s.h + s.ph, s.sh), ceil_div(s.w + s.pw, s.sw), s.channels / kWide);
      launch<unpool_patches_kernel<T, kWide>>(a.places.grid(), kPoolThreads, 0, stream, a);
    } else {
      const auto a = arguments(s.h, s.w, s.channels / kWide);
      if (s.dh == 1 && s.dw == 1)
        launch<unpool_gather_kernel<T, kWide, false>>(a.places.grid(), kPoolThreads, 0, stream, a);
      else
        launch<unpool_gather_kernel<T, kWide, true>>(a.places.grid(), kPoolThreads, 0, stream, a);
    }
  });
}
}  // namespace torchext::cuda
