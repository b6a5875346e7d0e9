// ReLU's mask and the bias gradient in one pass: dz = dy but 0 where y <= 0, db = dz summed over all but the channels.
// Reads dy and y once, writes dz once; bound by bandwidth. Sums of pieces go to scratch, [pieces, channels], and are
// added in order. Null dz or db: not written. Null y: dz = dy.
#pragma once
#include <algorithm>

#include "pack.cuh"
#include "reduce.cuh"

namespace torchext::cuda {
constexpr int kMaskRows = 128, kMaskWarps = 8;
constexpr int kMaskRun = 2048;  // elements of a plane that one warp sums

template <typename T>
struct MaskArguments {
  T* dz;
  acc_t<T>* sums;
  const T *dy, *y;

  // dz at [at, at + kWide), written and added to sum.
  template <int kWide>
  __device__ __forceinline__ void mask(int64_t at, acc_t<T> (&sum)[kWide]) const {
    Pack<T, kWide> g = load_once<kWide>(dy + at);
    if (y) {
      const Pack<T, kWide> result = load_once<kWide>(y + at);
#pragma unroll
      for (int i = 0; i < kWide; ++i) g[i] = static_cast<acc_t<T>>(result[i]) <= 0 ? T(0) : g[i];
    }
    if (dz) store(dz + at, g);
#pragma unroll
    for (int i = 0; i < kWide; ++i) sum[i] += static_cast<acc_t<T>>(g[i]);
  }
};

// [m, n] with channels along the rows. A lane has kWide neighbouring columns, a warp every kMaskWarps-th of kMaskRows
// rows; the warps' sums are added in order.
template <typename T, int kWide>
__global__ void __launch_bounds__(32 * kMaskWarps) relu_backward_kernel(MaskArguments<T> g, int64_t m, int64_t n) {
  using A = acc_t<T>;
  struct Scratch {
    A warp[kMaskWarps][32 * kWide];
  };
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column = (blockIdx.x * int64_t(32) + lane) * kWide, row0 = blockIdx.y * int64_t(kMaskRows);
  const int64_t row1 = row0 + kMaskRows < m ? row0 + kMaskRows : m;
  A sum[kWide] = {};
  if (column < n)
    for (int64_t row = row0 + warp; row < row1; row += kMaskWarps) g.mask(row * n + column, sum);
  if (!g.sums) return;
  Scratch& scratch = shared<Scratch>();
#pragma unroll
  for (int i = 0; i < kWide; ++i) scratch.warp[warp][lane * kWide + i] = sum[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * kWide; i += 32 * kMaskWarps) {
    const int64_t j = blockIdx.x * int64_t(32 * kWide) + i;
    A total = 0;
#pragma unroll
    for (int w = 0; w < kMaskWarps; ++w) total += scratch.warp[w][i];
    if (j < n) store(g.sums + blockIdx.y * n + j, total);
  }
}

// [images, channels, size]: a warp has a run of one plane, its lanes every 32nd pack.
template <typename T, int kWide>
__global__ void __launch_bounds__(32 * kMaskWarps)
    relu_backward_planes_kernel(MaskArguments<T> g, int64_t runs, int64_t channels, int64_t size, int64_t pieces) {
  const int64_t item = blockIdx.x * int64_t(kMaskWarps) + threadIdx.x / 32;  // [image, run, channel]
  if (item >= pieces * channels) return;
  const int64_t piece = item / channels, channel = item % channels, first = piece % runs * kMaskRun;
  const int64_t last = first + kMaskRun < size ? first + kMaskRun : size;
  const int64_t plane = (piece / runs * channels + channel) * size;
  acc_t<T> sum[kWide] = {};
  for (int64_t i = first + threadIdx.x % 32 * kWide; i < last; i += 32 * kWide) g.mask(plane + i, sum);
  if (!g.sums) return;
  acc_t<T> total = 0;
#pragma unroll
  for (int i = 0; i < kWide; ++i) total += sum[i];
  total = warp_reduce(total);
  if (threadIdx.x % 32 == 0) store(g.sums + item, total);
}

// db = the sum of `pieces` rows of sums, in order: a warp's lanes take every 32nd row, then add up.
template <typename T>
__global__ void __launch_bounds__(256) add_rows_kernel(T* db, const acc_t<T>* sums, int64_t pieces, int64_t n) {
  const int64_t column = blockIdx.x * int64_t(8) + threadIdx.x / 32;
  if (column >= n) return;
  acc_t<T> sum = 0;
  for (int64_t i = threadIdx.x % 32; i < pieces; i += 32) sum += load(sums + i * n + column);
  sum = warp_reduce(sum);
  if (threadIdx.x % 32 == 0) store(db + column, static_cast<T>(sum));
}

// Calls run.operator()<kWide>() for packs where lines of `line` elements allow them, else for single elements.
template <typename T, typename Run>
void run_mask(const T* dz, const T* dy, const T* y, int64_t line, Run&& run) {
  if (line % kPack<T> == 0 && aligned(dz) && aligned(dy) && aligned(y))
    run.template operator()<kPack<T>>();
  else
    run.template operator()<1>();
}

inline int64_t mask_rows_scratch_size(int64_t m, int64_t n) { return ceil_div(m, kMaskRows) * n; }

template <typename T>
void mask_rows(T* dz, T* db, const T* dy, const T* y, int64_t m, int64_t n, acc_t<T>* sums, void* stream) {
  if (n == 0) return;
  const int64_t pieces = ceil_div(m, kMaskRows);
  run_mask(dz, dy, y, n, [&]<int kWide>() {
    constexpr unsigned kRowsOfBlocks = 65535;
    for (int64_t i = 0; i < pieces; i += kRowsOfBlocks) {
      const int64_t row = i * kMaskRows, count = std::min<int64_t>(kRowsOfBlocks, pieces - i);
      const MaskArguments<T> g{dz ? dz + row * n : nullptr, db ? sums + i * n : nullptr, dy + row * n,
                               y ? y + row * n : nullptr};
      launch<relu_backward_kernel<T, kWide>>({blocks(n, 32 * kWide), static_cast<unsigned>(count)}, 32 * kMaskWarps, 0,
                                             stream, g, m - row, n);
    }
  });
  if (db) launch<add_rows_kernel<T>>(blocks(n, 8), 256, 0, stream, db, static_cast<const acc_t<T>*>(sums), pieces, n);
}

inline int64_t mask_planes_scratch_size(int64_t images, int64_t channels, int64_t size) {
  return images * ceil_div(size, kMaskRun) * channels;
}

template <typename T>
void mask_planes(T* dz, T* db, const T* dy, const T* y, int64_t images, int64_t channels, int64_t size, acc_t<T>* sums,
                 void* stream) {
  if (channels == 0) return;
  const int64_t runs = ceil_div(size, kMaskRun), pieces = images * runs;
  if (pieces > 0)
    run_mask(dz, dy, y, size, [&]<int kWide>() {
      launch<relu_backward_planes_kernel<T, kWide>>(blocks(pieces * channels, kMaskWarps), 32 * kMaskWarps, 0, stream,
                                                    MaskArguments<T>{dz, db ? sums : nullptr, dy, y}, runs, channels,
                                                    size, pieces);
    });
  if (db)
    launch<add_rows_kernel<T>>(blocks(channels, 8), 256, 0, stream, db, static_cast<const acc_t<T>*>(sums), pieces,
                               channels);
}
}  // namespace torchext::cuda
