// The input gradient: the product of forward once more, with dz in place of x and the filters turned round. dz is put
// together in shared memory (its rows and columns as far apart as the convolution's stride, zeros between), a thread
// has 2 x 2 elements of dx for a block of input channels and writes each once. Bill: dy and offsets are read once, and
// once more where tiles meet and for each further slice of channels; w once a block; dx is written once. Bound by the
// multiply-add units. Most of dz is zeros: to gather only what the offsets name would cost an access to shared memory
// for each multiply-add, the time of four.
#pragma once
#include "conv2d_relu_max_pool2d_quads.cuh"
#include "conv2d_relu_max_pool2d_unpool.cuh"

namespace torchext::cuda {
template <typename T>
struct InputGradientArguments {
  T* dx;
  Pooled<T> dy;
  Filters<T> w;
  ConvShape s;
  int64_t group_c, group_k;
  Tiling t;
  Steps steps;
};

template <typename T, int kC, int kS>
__global__ void __launch_bounds__(kDirectThreads, kDirectBlocks<T>) input_gradient_kernel(InputGradientArguments<T> a) {
  using A = acc_t<T>;
  const ConvShape& s = a.s;
  const Tiling& t = a.t;
  const Share share(t, s.groups, kC);
  const int width = t.blocks * kC, channels = t.tile.channels;
  const int64_t c0 = share.group * a.group_c + share.first, cs = a.group_c - share.first;
  const int64_t k0 = share.group * a.group_k, k1 = k0 + a.group_k;
  A* filters = dynamic_shared<A>();
  A* tile = filters + channels * a.w.taps * width;
  const bool once = channels == a.group_k;
  if (once) a.w.stage(filters, k0, channels, share.first, cs, width);
  const int corner = share.image * t.tile.image + 2 * (share.row * t.tile.pitch + share.column);

  for (int64_t number = share.stripe; number < t.tiles; number += share.stripes) {
    const Corner at(t, number);
    const int64_t n = at.n + share.image, h = 2 * (at.row + share.row), w = 2 * (at.column + share.column);
    const int count = static_cast<int>(s.n - at.n < t.images ? s.n - at.n : t.images);
    const bool mine = share.any && share.image < count && h < s.h && w < s.w;
    // The tile's corner in dz drawn out by the stride, and the part of dz inside.
    const int64_t top = 2 * at.row + s.ph - (s.r - 1) * s.dh, left = 2 * at.column + s.pw - (s.s - 1) * s.dw;
    const auto begin = [](int64_t from, int64_t step) { return from > 0 ? (from + step - 1) / step : int64_t(0); };
    const auto end = [](int64_t to, int64_t step, int64_t size) {
      const int64_t stop = to > 0 ? (to - 1) / step + 1 : 0;
      return stop < size ? stop : size;
    };
    const int64_t row0 = begin(top, s.sh), row1 = end(top + t.tile.rows, s.sh, s.p);
    const int64_t column0 = begin(left, s.sw), column1 = end(left + t.tile.columns, s.sw, s.q);
    const int down = static_cast<int>(row0 * s.sh - top), right = static_cast<int>(column0 * s.sw - left);
    bool staged = false;
#pragma unroll 1
    for (int first = 0; first < t.blocks; first += t.lanes) {
      const int block = first + share.lane;
      const bool works = mine && block < t.blocks;
      A sum[4][kC] = {};
#pragma unroll 1
      for (int k = 0; k < a.group_k; k += channels) {
        const int here = static_cast<int>(a.group_k - k < channels ? a.group_k - k : channels);
        if (!staged) {
          __syncthreads();  // all have read the tile before
          unpool(tile, t.images * t.tile.image, a.dy, at.n, count, k0 + k, k1, row0, row1, column0, column1,
                 [&](int image, int channel, int row, int column) {
                   return t.tile.at(
                       {image, channel, down + row * static_cast<int>(s.sh), right + column * static_cast<int>(s.sw)});
                 });
          if (!once) a.w.stage(filters, k0 + k, here, share.first, cs, width);
          __syncthreads();
          staged = once;
        }
        if (works) add_products<kS>(sum, tile + corner, filters + block * kC, here, t.tile.plane, width, a.steps);
      }
      if (!works) continue;
      const int64_t plane = s.h * s.w, step = s.channels_last ? 1 : plane, c = c0 + block * kC;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t row = h + e / 2, column = w + e % 2, pixel = row * s.w + column;
        if (row >= s.h || column >= s.w) continue;
        T* to = a.dx + n * s.c * plane + (s.channels_last ? pixel * s.c + c : c * plane + pixel);
#pragma unroll
        for (int i = 0; i < kC; ++i)
          if (block * kC + i < cs) store_once(to + i * step, Pack<T, 1>{{static_cast<T>(sum[e][i])}});
      }
    }
  }
}

template <typename T>
void input_gradient(const PooledGradients<T>& g, const ConvShape& s, const ConvPool& pool, void* stream) {
  if (s.n * s.c * s.h * s.w == 0) return;
  with_channels(s.group_c(), [&]<int kC>() {
    const int64_t area = s.r * s.s;
    const Reach reach{s.n,
                      s.groups,
                      s.group_k(),
                      s.group_c(),
                      ceil_div(s.h, 2),
                      ceil_div(s.w, 2),
                      2,
                      2,
                      2 + (s.r - 1) * s.dh,
                      2 + (s.s - 1) * s.dw,
                      area};
    const Tiling t = plan_tiling<acc_t<T>>(reach, kC);
    const InputGradientArguments<T> a{
        g.dx,
        {g.dy, g.offsets, s, pool, t.tile.channels, ceil_div(t.tile.rows, s.sh), ceil_div(t.tile.columns, s.sw)},
        {g.w, s.group_c() * area, area, static_cast<int>(area), true},
        s,
        s.group_c(),
        s.group_k(),
        t,
        Steps::of(s.r, s.s, s.dh, s.dw, 1, 1, t.tile.pitch)};
    with_width(s.dh == 1 && s.dw == 1, s.s, [&]<int kS>() {
      launch<input_gradient_kernel<T, kC, kS>>(t.grid(s.groups), t.threads(), shared_bytes<acc_t<T>>(t, reach, kC),
                                               stream, a);
    });
  });
}
}  // namespace torchext::cuda
