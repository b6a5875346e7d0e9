// The weight and bias gradients. dz is put together in shared memory, channels side by side; a thread keeps kK channels
// x kT neighbouring taps in registers over all tiles of its block and walks along rows of dz: kK of dz (by 16 bytes,
// one or few addresses a warp) and kT of x for kK kT multiply-adds, 7 accesses for 40, where the processor has time
// for 10. Threads that share their taps take different rows and add up in the end, in one order; each block writes its
// sums and a second launch adds the blocks' in order: no atomics, the same bits on every run. Bill: dy, offsets and x
// are read once for each slice (a block's channels and taps: one, up to 256 threads' worth) and once more where tiles
// meet; each block's sums are written and read once. Bound by the multiply-add units.
#pragma once
#include "conv2d_relu_max_pool2d_dw_tiling.cuh"
#include "conv2d_relu_max_pool2d_unpool.cuh"

namespace torchext::cuda {
template <typename T>
struct WeightGradientArguments {
  acc_t<T>* sums;  // [stripes][dw, db]
  Images<T> x;
  Pooled<T> dy;
  ConvShape s;
  int64_t group_c, group_k;
  WeightTiling t;
};

// One thread's sums: kT taps, and its share of the bias.
template <int kK, int kT, typename A>
struct WeightSums {
  A tap[kT][kK] = {}, bias[kK] = {};

  // Along one row of `columns` of dz; every `share`-th from `first` on counts for the bias.
  __device__ __forceinline__ void add_row(const A* dz, int width, const A* x, int columns, int x_step, int dilation,
                                          int first, int share) {
    for (int q = first; q < columns; q += share) {
      A g[kK];
      load_channels(g, dz + q * width);
#pragma unroll
      for (int k = 0; k < kK; ++k) bias[k] += g[k];
    }
#pragma unroll 1
    for (int q = 0; q < columns; ++q, dz += width, x += x_step) {
      A g[kK];
      load_channels(g, dz);
#pragma unroll
      for (int i = 0; i < kT; ++i) {
        const A v = x[i * dilation];
#pragma unroll
        for (int k = 0; k < kK; ++k) tap[i][k] += v * g[k];
      }
    }
  }
  template <typename F>
  __device__ __forceinline__ void for_each(F&& f) {
    int i = 0;
#pragma unroll
    for (int t = 0; t < kT; ++t)
#pragma unroll
      for (int k = 0; k < kK; ++k) f(tap[t][k], i++);
#pragma unroll
    for (int k = 0; k < kK; ++k) f(bias[k], i++);
  }
};

// Adds up the `splits` threads of each item, by halves, into the first; all threads must call it.
template <class Sums, typename A>
__device__ __forceinline__ void add_splits(Sums& sums, A* scratch, int item, int items, int split, int splits) {
  for (int left = splits; left > 1;) {
    const int half = (left + 1) / 2, others = (left - half) * items;
    __syncthreads();
    if (split >= half && split < left)
      sums.for_each([&](A& v, int i) { scratch[i * others + (split - half) * items + item] = v; });
    __syncthreads();
    if (split < left - half) sums.for_each([&](A& v, int i) { v += scratch[i * others + split * items + item]; });
    left = half;
  }
}

template <typename T, int kK, int kT>
__global__ void __launch_bounds__(kDirectThreads, kDirectBlocks<T>)
    weight_gradient_kernel(WeightGradientArguments<T> a) {
  using A = acc_t<T>;
  const ConvShape& s = a.s;
  const WeightTiling& t = a.t;
  const unsigned all = static_cast<unsigned>(s.groups * t.slices());
  unsigned slice = blockIdx.x % all;
  const int64_t stripe = blockIdx.x / all, area = s.r * s.s;
  const int64_t r0 = int64_t(slice % t.line_slices) * t.lines;
  slice /= static_cast<unsigned>(t.line_slices);
  const int64_t c0 = int64_t(slice % t.channel_slices) * t.channels;
  slice /= static_cast<unsigned>(t.channel_slices);
  const int width = t.blocks * kK;
  const int64_t group = slice / t.block_slices, first_k = int64_t(slice % t.block_slices) * width;
  const int64_t k0 = group * a.group_k + first_k, k1 = (group + 1) * a.group_k;

  const int items = t.items(), item = static_cast<int>(threadIdx.x) % items;
  const int split = static_cast<int>(threadIdx.x) / items, share = items / t.blocks;
  const bool works = split < t.splits;
  int rest = item;
  const int run = rest % t.runs;
  rest /= t.runs;
  const int r = rest % t.lines;
  rest /= t.lines;
  const int c = rest % t.channels, block = rest / t.channels;

  A* dz = dynamic_shared<A>();
  A* x = dz + t.images * t.rows * t.columns * width;
  if (a.x.packs) set_zero(x, t.images * t.tile.image);
  WeightSums<kK, kT, A> sums;
  for (int64_t number = stripe; number < t.tiles; number += t.stripes) {
    const int64_t n0 = number / (t.down * t.across) * t.images;
    const int64_t p0 = number / t.across % t.down * t.rows, q0 = number % t.across * t.columns;
    const int count = static_cast<int>(s.n - n0 < t.images ? s.n - n0 : t.images);
    const int rows = static_cast<int>(s.p - p0 < t.rows ? s.p - p0 : t.rows);
    const int columns = static_cast<int>(s.q - q0 < t.columns ? s.q - q0 : t.columns);
    __syncthreads();  // all have read the tile before
    stage(x, t.tile, a.x, n0, count, group * a.group_c + c0, (group + 1) * a.group_c, p0 * s.sh - s.ph + r0 * s.dh,
          q0 * s.sw - s.pw);
    unpool(dz, t.images * t.rows * t.columns * width, a.dy, n0, count, k0, k1, p0, p0 + rows, q0, q0 + columns,
           [&](int image, int channel, int row, int column) {
             return ((image * t.rows + row) * t.columns + column) * width + channel;
           });
    __syncthreads();
    if (!works) continue;
    for (int line = split; line < count * rows; line += t.splits) {
      const int image = line / rows, p = line % rows;
      sums.add_row(dz + (image * t.rows + p) * t.columns * width + block * kK, width,
                   x + image * t.tile.image + c * t.tile.plane + static_cast<int>(p * s.sh + r * s.dh) * t.tile.pitch +
                       run * kT * static_cast<int>(s.dw),
                   columns, static_cast<int>(s.sw), static_cast<int>(s.dw), item % share, share);
    }
  }

  A* scratch = dynamic_shared<A>();
  add_splits(sums, scratch, item, items, works ? split : t.splits, t.splits);
  A* to = a.sums + stripe * (s.k * a.group_c * area + s.k);
  if (split == 0 && r0 + r < s.r && c0 + c < a.group_c)
#pragma unroll
    for (int k = 0; k < kK; ++k)
#pragma unroll
      for (int i = 0; i < kT; ++i)
        if (k0 + block * kK + k < k1 && run * kT + i < s.s)
          store(to + (((k0 + block * kK + k) * a.group_c + c0 + c) * s.r + r0 + r) * s.s + run * kT + i,
                sums.tap[i][k]);
  if (c0 > 0 || r0 > 0) return;
  __syncthreads();
  if (split == 0)
#pragma unroll
    for (int k = 0; k < kK; ++k) scratch[item * kK + k] = sums.bias[k];
  __syncthreads();
  for (int k = threadIdx.x; k < width; k += blockDim.x) {
    A total = 0;
    for (int i = 0; i < share; ++i) total += scratch[(k / kK * share + i) * kK + k % kK];
    if (k0 + k < k1) store(to + s.k * a.group_c * area + k0 + k, total);
  }
}

// dw, then db, from `stripes` rows of sums: 32 neighbours a block, whose warps take every 8th row and add up in order.
template <typename T>
__global__ void __launch_bounds__(256)
    add_stripes_kernel(T* dw, T* db, const acc_t<T>* sums, int64_t stripes, int64_t weights, int64_t count) {
  using A = acc_t<T>;
  struct Scratch {
    A warp[8][32];
  };
  Scratch& scratch = shared<Scratch>();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t i = blockIdx.x * int64_t(32) + lane;
  A sum = 0;
  if (i < count)
    for (int64_t stripe = warp; stripe < stripes; stripe += 8) sum += load(sums + stripe * count + i);
  scratch.warp[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || i >= count) return;
#pragma unroll
  for (int w = 1; w < 8; ++w) sum += scratch.warp[w][lane];
  if (i < weights && dw) store(dw + i, static_cast<T>(sum));
  if (i >= weights && db) store(db + (i - weights), static_cast<T>(sum));
}

template <typename T>
int64_t weight_gradient_scratch_size(const ConvShape& s, const ConvPool&) {
  int64_t size = 0;
  with_weight_block(s, [&]<int kK, int kT>() { size = plan_weight_tiling<acc_t<T>>(s, kK, kT).stripes * sums_of(s); });
  return size;
}

template <typename T>
void weight_gradient(const PooledGradients<T>& g, const ConvShape& s, const ConvPool& pool, void* stream) {
  using A = acc_t<T>;
  with_weight_block(s, [&]<int kK, int kT>() {
    const WeightTiling t = plan_weight_tiling<A>(s, kK, kT);
    const int64_t all = t.slices() * s.groups, staged = t.tile.image + int64_t(t.rows) * t.columns * t.blocks * kK;
    const int64_t shared = std::max<int64_t>(t.images * staged, ceil_div(t.splits, 2) * t.items() * kK * (kT + 1));
    const bool whole = t.rows == s.p && t.columns == s.q && t.lines == s.r;
    const WeightGradientArguments<T> a{g.sums,
                                       {g.x, s.n, s.c, s.h, s.w, s.channels_last, t.tile, s.group_c(), whole},
                                       {g.dy, g.offsets, s, pool, int64_t(t.blocks) * kK, t.rows, t.columns},
                                       s,
                                       s.group_c(),
                                       s.group_k(),
                                       t};
    if (t.tiles > 0)
      launch<weight_gradient_kernel<T, kK, kT>>(blocks(t.stripes * all, 1), t.threads(), shared * sizeof(A), stream, a);
    const int64_t count = sums_of(s);
    launch<add_stripes_kernel<T>>(blocks(count, 32), 256, 0, stream, g.dw, g.db, g.sums, t.stripes, count - s.k, count);
  });
}
}  // namespace torchext::cuda
