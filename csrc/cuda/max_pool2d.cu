// Max-pooling forward: a thread keeps the best value and its tap in registers and writes each once. Where 2 x 2 windows
// fill the rows of a contiguous plane it loads 16 bytes of two rows for 16 / (2 s) outputs; elsewhere it has one
// output of a contiguous plane or 16 bytes of channels, and loads its taps, all of which are under way at once.
// Bill: x is read once (kh kw / (sh sw) times, mostly from cache), s + 1 bytes an output are written.
// Bound by bandwidth.
#include "../max_pool2d.h"

#include <cmath>

#include "max_pool2d_backward.cuh"

namespace torchext::cuda {
template <typename T>
struct PoolArguments {
  T* y;
  uint8_t* offsets;
  const T* x;
  PoolShape s;
  Places places;
  Divisor dh, dw;
};
struct IndicesArguments {
  int64_t* indices;
  const uint8_t* offsets;
  PoolShape s;
  Places places;
  Divisor dh, dw, kw;
};

namespace {
// The best values so far and their taps: the first of equals, the last NaN.
template <typename T, int N>
struct Best {
  Pack<T, N> value;
  Pack<uint8_t, N> tap;

  __device__ __forceinline__ explicit Best(int first) {
#pragma unroll
    for (int e = 0; e < N; ++e) value[e] = static_cast<T>(-INFINITY), tap[e] = static_cast<uint8_t>(first);
  }
  __device__ __forceinline__ void see(int e, T v, int at) {
    using A = acc_t<T>;
    const A candidate = static_cast<A>(v);
    const bool wins = candidate > static_cast<A>(value[e]) || candidate != candidate;
    value[e] = wins ? v : value[e];
    tap[e] = wins ? static_cast<uint8_t>(at) : tap[e];
  }
  __device__ __forceinline__ void see(const Pack<T, N>& v, int at) {
#pragma unroll
    for (int e = 0; e < N; ++e) see(e, v[e], at);
  }
  __device__ __forceinline__ void write(const PoolArguments<T>& a, int64_t to) const {
    store_once(a.y + to, value);
    if (a.offsets) store_once(a.offsets + to, tap);
  }
};

template <typename T, int kWide>
__global__ void __launch_bounds__(kPoolThreads) pool_pairs_kernel(PoolArguments<T> a) {
  constexpr int kOut = kWide / 2;
  const int64_t n = Places::number();
  if (n >= a.places.count) return;
  const Place at = a.places(n);
  const T* x = a.x + (at.plane * a.s.h + 2 * at.i) * a.s.w + at.j * kWide;
  const bool both = 2 * at.i + 1 < a.s.h;  // else ceil_mode's last window, of one row
  const Pack<T, kWide> top = load_once<kWide>(x);
  Best<T, kOut> best(0);
  const auto see = [&](const Pack<T, kWide>& row, int tap) {
#pragma unroll
    for (int e = 0; e < kWide; ++e) best.see(e / 2, row[e], tap + e % 2);
  };
  if (both) {
    const Pack<T, kWide> bottom = load_once<kWide>(x + a.s.w);
    see(top, 0);
    see(bottom, 2);
  } else {
    see(top, 0);
  }
  best.write(a, (at.plane * a.s.oh + at.i) * a.s.ow + at.j * kOut);
}

// Along one axis, with tap 0 at input `at`: taps [first, last) are inside.
struct Taps {
  int first = 0, last;
  __device__ __forceinline__ Taps(int64_t at, int64_t size, int64_t k, int64_t dilation, const Divisor& by)
      : last(static_cast<int>(k)) {
    if (at < 0) first = steps(-at, k, by);
    if (at + (k - 1) * dilation >= size) last = at < size ? steps(size - at, k, by) : 0;
  }
  // How many of the k taps do not reach as far.
  __device__ __forceinline__ static int steps(int64_t distance, int64_t k, const Divisor& by) {
    const int64_t count = by.quotient_up(distance);
    return static_cast<int>(count < k ? count : k);
  }
};

// K: windows are K x K without dilation; or 0. Those that lie inside are then unrolled.
template <typename T, int kWide, int K>
__global__ void __launch_bounds__(kPoolThreads, 4) pool_windows_kernel(PoolArguments<T> a) {
  const PoolShape& s = a.s;
  const int64_t n = Places::number();
  if (n >= a.places.count) return;
  const Place at = a.places(n);
  const int64_t p = at.i * s.sh - s.ph, q = at.j * s.sw - s.pw, c = at.pack * kWide;
  const int64_t to = ((at.plane * s.oh + at.i) * s.ow + at.j) * s.channels + c;
  const T* x = a.x + at.plane * s.h * s.w * s.channels + c;
  if constexpr (K > 0)
    if (p >= 0 && q >= 0 && p + K <= s.h && q + K <= s.w) {
      Pack<T, kWide> v[K * K];
#pragma unroll
      for (int i = 0; i < K * K; ++i) v[i] = load<kWide>(x + ((p + i / K) * s.w + q + i % K) * s.channels);
      Best<T, kWide> best(0);
#pragma unroll
      for (int i = 0; i < K * K; ++i) best.see(v[i], i);
      return best.write(a, to);
    }
  const Taps rows(p, s.h, s.kh, s.dh, a.dh), columns(q, s.w, s.kw, s.dw, a.dw);
  const bool any = rows.first < rows.last && columns.first < columns.last;
  const int kw = static_cast<int>(s.kw);
  Best<T, kWide> best(any ? rows.first * kw + columns.first : int(kDead));
  const T* row = x + ((p + rows.first * s.dh) * s.w + q + columns.first * s.dw) * s.channels;
#pragma unroll 1
  for (int r = rows.first; r < rows.last; ++r, row += s.dh * s.w * s.channels) {
    const T* tap = row;
#pragma unroll(K > 0 ? 1 : 2)
    for (int t = columns.first; t < columns.last; ++t, tap += s.dw * s.channels) best.see(load<kWide>(tap), r * kw + t);
  }
  best.write(a, to);
}

// Reads 1 byte and writes 8 an output; bound by bandwidth.
__global__ void __launch_bounds__(kPoolThreads) pool_indices_kernel(IndicesArguments a) {
  const PoolShape& s = a.s;
  const int64_t n = Places::number();
  if (n >= a.places.count) return;
  const Place at = a.places(n);
  int64_t p = at.i * s.sh - s.ph, q = at.j * s.sw - s.pw, r = load_once<1>(a.offsets + n)[0];
  if (r == kDead) {  // of the first tap with p, q >= 0, as stock
    p += p < 0 ? a.dh.quotient_up(-p) * s.dh : 0;
    q += q < 0 ? a.dw.quotient_up(-q) * s.dw : 0;
  } else {
    const int64_t t = a.kw.split(r);
    p += r * s.dh, q += t * s.dw;
  }
  store_once(a.indices + n, Pack<int64_t, 1>{{p * s.w + q}});
}
}  // namespace

template <typename T>
void max_pool2d(T* y, uint8_t* offsets, const T* x, PoolShape s, void* stream) {
  if (s.planes * s.oh * s.ow * s.channels == 0) return;
  const auto arguments = [&](int64_t columns, int64_t packs) {
    return PoolArguments<T>{y, offsets, x, s, {s.planes, s.oh, columns, packs}, Divisor(s.dh), Divisor(s.dw)};
  };
  const auto pairs = [&]<int kWide>() {
    const auto a = arguments(s.w / kWide, 1);
    launch<pool_pairs_kernel<T, kWide>>(a.places.grid(), kPoolThreads, 0, stream, a);
  };
  if (in_pairs(s) && run_in_pairs(x, y, offsets, s, pairs)) return;
  const auto square = [&](int64_t k) { return s.kh == k && s.kw == k && s.dh == 1 && s.dw == 1; };
  run_along_channels(x, y, offsets, s, [&]<int kWide>() {
    const auto a = arguments(s.ow, s.channels / kWide);
    const auto run = [&]<int K>() {
      launch<pool_windows_kernel<T, kWide, K>>(a.places.grid(), kPoolThreads, 0, stream, a);
    };
    if (square(2))
      run.template operator()<2>();
    else if (square(3))
      run.template operator()<3>();
    else
      run.template operator()<0>();
  });
}

template <typename T>
void max_pool2d_backward(T* dx, const T* dy, const uint8_t* offsets, PoolShape s, void* stream) {
  if (s.planes * s.h * s.w * s.channels > 0) unpool(dx, dy, offsets, s, stream);
}

void max_pool2d_indices(int64_t* indices, const uint8_t* offsets, PoolShape s, void* stream) {
  const IndicesArguments a{indices,       offsets,      s, {s.planes, s.oh, s.ow, s.channels}, Divisor(s.dh),
                           Divisor(s.dw), Divisor(s.kw)};
  if (a.places.count > 0) launch<pool_indices_kernel>(a.places.grid(), kPoolThreads, 0, stream, a);
}

#define INSTANTIATE(T)                                                \
  template void max_pool2d(T*, uint8_t*, const T*, PoolShape, void*); \
  template void max_pool2d_backward(T*, const T*, const uint8_t*, PoolShape, void*)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cuda
