// conv2d_relu_max_pool2d: direct kernels for few channels. A block keeps its filters in shared memory and goes from
// tile to tile of images. Forward: a thread has a pooling window and a block of channels; it computes the window in
// quads of 2 x 2, adds the bias, keeps the best value and its tap in registers, and writes each once: the map before
// pooling never exists. (Quads beyond a window, or windows that overlap, are computed and not used, or twice.)
// Bill: x is read once for each slice of output channels (one, unless filters and tile outgrow 96 KB), w once a block;
// s + 1 bytes a result are written. Bound by the multiply-add units: see the quads.
#include "../conv2d_relu_max_pool2d.h"

#include <cmath>

#include "conv2d_relu_max_pool2d_dw.cuh"
#include "conv2d_relu_max_pool2d_dx.cuh"

namespace torchext::cuda {
template <typename T>
struct ConvPoolArguments {
  T* y;
  uint8_t* offsets;
  const T* b;
  Images<T> x;
  Filters<T> w;
  ConvShape s;
  int64_t group_c, group_k;
  ConvPool pool;
  Tiling t;
  Steps steps;
  bool packs;  // channels lie side by side and are stored so
};

namespace {
// The best of a window so far and its tap: the first of equals, the last NaN, in whatever order they come.
template <typename A, int kK>
struct Best {
  A value[kK];
  int tap[kK];
  __device__ __forceinline__ Best() {
#pragma unroll
    for (int k = 0; k < kK; ++k) value[k] = -static_cast<A>(INFINITY), tap[k] = kDead;
  }
  __device__ __forceinline__ void see(const A (&v)[kK], int at) {
#pragma unroll
    for (int k = 0; k < kK; ++k) {
      const bool later = at > tap[k], nan = v[k] != v[k], was_nan = value[k] != value[k];
      const bool wins = nan ? !was_nan || later : v[k] > value[k] || (v[k] == value[k] && !later);
      value[k] = wins ? v[k] : value[k];
      tap[k] = wins ? at : tap[k];
    }
  }
};

// count neighbours of v; by packs where all are there.
template <typename T, int kK, typename V>
__device__ __forceinline__ void put_channels(T* to, const V (&v)[kK], int64_t count, int64_t step, bool packs) {
  constexpr int N = kK % 4 == 0 && sizeof(T) <= 4 ? 4 : 2;
#pragma unroll
  for (int k = 0; k < kK; k += N) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack[i] = static_cast<T>(v[k + i]);
    if (packs) {
      if (k < count) store_once(to + k, pack);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (k + i < count) store_once(to + (k + i) * step, Pack<T, 1>{{pack[i]}});
    }
  }
}

template <typename T, int kK>
__device__ __forceinline__ void write(const ConvPoolArguments<T>& a, Best<acc_t<T>, kK>& best, int64_t n, int64_t k,
                                      int64_t count, int64_t p, int64_t q) {
  const int64_t plane = a.pool.p * a.pool.q, pixel = p * a.pool.q + q, step = a.s.channels_last ? 1 : plane;
  const int64_t to = n * a.s.k * plane + (a.s.channels_last ? pixel * a.s.k + k : k * plane + pixel);
#pragma unroll
  for (int i = 0; i < kK; ++i)
    if (best.value[i] <= 0) best.value[i] = 0, best.tap[i] = kDead;
  put_channels(a.y + to, best.value, count, step, a.packs);
  put_channels(a.offsets + to, best.tap, count, step, a.packs);
}

template <typename T, int kK, int kS>
__global__ void __launch_bounds__(kDirectThreads, kDirectBlocks<T>) conv_pool_kernel(ConvPoolArguments<T> a) {
  using A = acc_t<T>;
  const ConvShape& s = a.s;
  const ConvPool& pool = a.pool;
  const Tiling& t = a.t;
  const Share share(t, s.groups, kK);
  const int width = t.blocks * kK, channels = t.tile.channels;
  const int64_t k0 = share.group * a.group_k + share.first, ks = a.group_k - share.first;
  A* filters = dynamic_shared<A>();
  A* bias = filters + channels * a.w.taps * width;
  A* tile = bias + width;
  const bool once = channels == a.group_c;  // filters, and each tile, are staged whole
  if (a.x.packs) set_zero(tile, t.images * t.tile.image);
  for (int k = threadIdx.x; k < width; k += blockDim.x)
    bias[k] = a.b && k < ks ? static_cast<A>(load(a.b + k0 + k)) : A(0);
  if (once) a.w.stage(filters, 0, channels, k0, ks, width);
  __syncthreads();
  const int quads_down = static_cast<int>(ceil_div(pool.kh, 2)), quads_across = static_cast<int>(ceil_div(pool.kw, 2));
  const int corner = share.image * t.tile.image +
                     static_cast<int>(share.row * pool.sh * s.sh * t.tile.pitch + share.column * pool.sw * s.sw);

  for (int64_t number = share.stripe; number < t.tiles; number += share.stripes) {
    const Corner at(t, number);
    const int64_t n = at.n + share.image, p = at.row + share.row, q = at.column + share.column;
    const int count = static_cast<int>(s.n - at.n < t.images ? s.n - at.n : t.images);
    const bool mine = share.any && share.image < count && p < pool.p && q < pool.q;
    bool staged = false;
#pragma unroll 1
    for (int first = 0; first < t.blocks; first += t.lanes) {
      const int block = first + share.lane;
      const bool works = mine && block < t.blocks;
      Best<A, kK> best;
#pragma unroll 1
      for (int quad = 0; quad < quads_down * quads_across; ++quad) {
        const int i = quad / quads_across * 2, j = quad % quads_across * 2;
        A sum[4][kK];
        if (works)
#pragma unroll
          for (int e = 0; e < 4; ++e) load_channels(sum[e], bias + block * kK);
#pragma unroll 1
        for (int c = 0; c < a.group_c; c += channels) {
          const int here = static_cast<int>(a.group_c - c < channels ? a.group_c - c : channels);
          if (!staged) {
            __syncthreads();  // all have read the tile before
            const int64_t c0 = share.group * a.group_c;
            stage(tile, t.tile, a.x, at.n, count, c0 + c, c0 + a.group_c, (at.row * pool.sh - pool.ph) * s.sh - s.ph,
                  (at.column * pool.sw - pool.pw) * s.sw - s.pw);
            if (!once) a.w.stage(filters, c, here, k0, ks, width);
            __syncthreads();
            staged = once;
          }
          if (works)
            add_products<kS>(sum, tile + corner + i * s.sh * t.tile.pitch + j * s.sw, filters + block * kK, here,
                             t.tile.plane, width, a.steps);
        }
        if (!works) continue;
        const int64_t z_row = p * pool.sh - pool.ph, z_column = q * pool.sw - pool.pw;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int y = i + e / 2, x = j + e % 2;
          if (y < pool.kh && x < pool.kw && z_row + y >= 0 && z_row + y < s.p && z_column + x >= 0 &&
              z_column + x < s.q)
            best.see(sum[e], y * static_cast<int>(pool.kw) + x);
        }
      }
      if (works && block * kK < ks) write(a, best, n, k0 + block * kK, ks - block * kK, p, q);
    }
  }
}
}  // namespace

template <typename T>
void conv2d_relu_max_pool2d(T* y, uint8_t* offsets, const T* x, const T* w, const T* b, ConvShape s, ConvPool pool,
                            void* stream) {
  if (s.n * s.k * pool.p * pool.q == 0) return;
  with_channels(s.group_k(), [&]<int kK>() {
    const auto patch = [](int64_t window, int64_t stride, int64_t taps, int64_t dilation) {
      return (2 * ceil_div(window, 2) - 1) * stride + (taps - 1) * dilation + 1;
    };
    const Reach reach{s.n,
                      s.groups,
                      s.group_c(),
                      s.group_k(),
                      pool.p,
                      pool.q,
                      pool.sh * s.sh,
                      pool.sw * s.sw,
                      patch(pool.kh, s.sh, s.r, s.dh),
                      patch(pool.kw, s.sw, s.s, s.dw),
                      s.r * s.s};
    const Tiling t = plan_tiling<acc_t<T>>(reach, kK);
    const bool packs = s.channels_last && s.group_k() % 4 == 0 && aligned(y) && aligned(offsets, 4);
    const int64_t area = s.r * s.s;
    const ConvPoolArguments<T> a{y,
                                 offsets,
                                 b,
                                 {x, s.n, s.c, s.h, s.w, s.channels_last, t.tile, s.group_c(), t.whole(reach)},
                                 {w, area, s.group_c() * area, static_cast<int>(area), false},
                                 s,
                                 s.group_c(),
                                 s.group_k(),
                                 pool,
                                 t,
                                 Steps::of(s.r, s.s, s.dh, s.dw, s.sh, s.sw, t.tile.pitch),
                                 packs};
    const bool slides = s.sh == 1 && s.sw == 1 && s.dh == 1 && s.dw == 1 && pool.sw % 2 == 0;
    with_width(slides, s.s, [&]<int kS>() {
      launch<conv_pool_kernel<T, kK, kS>>(t.grid(s.groups), t.threads(), shared_bytes<acc_t<T>>(t, reach, kK), stream,
                                          a);
    });
  });
}

template <typename T>
int64_t conv2d_relu_max_pool2d_backward_scratch_size(ConvShape s, ConvPool pool) {
  return weight_gradient_scratch_size<T>(s, pool);
}

template <typename T>
void conv2d_relu_max_pool2d_backward(PooledGradients<T> g, ConvShape s, ConvPool pool, void* stream) {
  if (g.dx) input_gradient(g, s, pool, stream);
  if (g.dw || g.db) weight_gradient(g, s, pool, stream);
}

#define INSTANTIATE(T)                                                                                          \
  template void conv2d_relu_max_pool2d(T*, uint8_t*, const T*, const T*, const T*, ConvShape, ConvPool, void*); \
  template int64_t conv2d_relu_max_pool2d_backward_scratch_size<T>(ConvShape, ConvPool);                        \
  template void conv2d_relu_max_pool2d_backward(PooledGradients<T>, ConvShape, ConvPool, void*)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cuda
