// linear and linear_relu: the matrix products on matmul.cuh, and ReLU's mask with the bias gradient in one pass.
#include "../linear_relu.h"

#include <algorithm>

#include "matmul.cuh"
#include "reduce.cuh"

namespace torchext::cuda {
namespace {
// 16-bit elements: 80 KB of stages for the large tile, two blocks a processor.
using SmallHalf = Tiles<64, 64, 32, 2, 2, 4>;
using LargeHalf = Tiles<128, 128, 32, 2, 4, 4>;
using SmallFloat = Tiles<64, 64, 16, 2, 4, 3>;
using LargeFloat = Tiles<128, 64, 16, 4, 2, 3>;  // 128 x 128 floats would not fit two blocks' registers

template <typename T>
using Small = std::conditional_t<sizeof(T) == 2, SmallHalf, SmallFloat>;
template <typename T>
using Large = std::conditional_t<sizeof(T) == 2, LargeHalf, std::conditional_t<sizeof(T) == 4, LargeFloat, SmallFloat>>;

constexpr int kMaskRows = 128, kMaskWarps = 8;

// dz = dy but 0 where y <= 0, and the sums of kMaskRows rows of it: reads dy and y once, writes dz once; bound by
// bandwidth. A lane has kWide neighbouring columns, a warp every kMaskWarps-th row; the warps' sums are added in order.
template <typename T, int kWide>
__global__ void __launch_bounds__(32 * kMaskWarps)
    relu_backward_kernel(T* dz, acc_t<T>* sums, const T* dy, const T* y, int64_t m, int64_t n) {
  using A = acc_t<T>;
  struct Scratch {
    A warp[kMaskWarps][32 * kWide];
  };
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column = (blockIdx.x * int64_t(32) + lane) * kWide, row0 = blockIdx.y * int64_t(kMaskRows);
  const int64_t row1 = row0 + kMaskRows < m ? row0 + kMaskRows : m;
  A sum[kWide] = {};
  if (column < n)
    for (int64_t row = row0 + warp; row < row1; row += kMaskWarps) {
      Pack<T, kWide> g = load_once<kWide>(dy + row * n + column);
      if (y) {
        const Pack<T, kWide> mask = load_once<kWide>(y + row * n + column);
#pragma unroll
        for (int i = 0; i < kWide; ++i) g[i] = static_cast<A>(mask[i]) <= 0 ? T(0) : g[i];
      }
      if (dz) store(dz + row * n + column, g);
#pragma unroll
      for (int i = 0; i < kWide; ++i) sum[i] += static_cast<A>(g[i]);
    }
  if (!sums) return;
  Scratch& scratch = shared<Scratch>();
#pragma unroll
  for (int i = 0; i < kWide; ++i) scratch.warp[warp][lane * kWide + i] = sum[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * kWide; i += 32 * kMaskWarps) {
    const int64_t j = blockIdx.x * int64_t(32 * kWide) + i;
    A total = 0;
#pragma unroll
    for (int w = 0; w < kMaskWarps; ++w) total += scratch.warp[w][i];
    if (j < n) store(sums + blockIdx.y * n + j, total);
  }
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
}  // namespace

template <typename T>
int64_t matmul_scratch_size(MatmulShape s) {
  const MatmulPlan plan = plan_matmul<Small<T>, Large<T>>(s);
  return plan.splits > 1 ? plan.splits * s.m * s.n : 0;
}

template <typename T>
void matmul(T* c, const T* a, const T* b, const T* bias, bool relu, [[maybe_unused]] bool tf32, MatmulShape s,
            acc_t<T>* scratch, void* stream) {
  if (s.m == 0 || s.n == 0) return;
  const MatmulPlan plan = plan_matmul<Small<T>, Large<T>>(s);
  const MatmulArguments<T> g{c, a, b, bias, plan.splits > 1 ? scratch : nullptr, plan.depth, relu, s};
  const auto run = [&]<template <typename, class, Order, Order> class Math>() {
    if (plan.large)
      launch_matmul_by_order<Math, Large<T>>(g, plan.splits, stream);
    else
      launch_matmul_by_order<Math, Small<T>>(g, plan.splits, stream);
  };
  if constexpr (sizeof(T) == 2) {
    run.template operator()<TensorCores>();
  } else if constexpr (sizeof(T) == 4) {
    if (tf32)
      run.template operator()<TensorCores>();
    else
      run.template operator()<MultiplyAdds>();
  } else {
    run.template operator()<MultiplyAdds>();
  }
  if (plan.splits > 1)
    launch<add_pieces_kernel<T>>(blocks(s.m * s.n, 256), 256, 0, stream, g, static_cast<int>(plan.splits));
}

template <typename T>
int64_t relu_backward_scratch_size(int64_t m, int64_t n) {
  return ceil_div(m, kMaskRows) * n;
}

template <typename T>
void relu_backward(T* dz, T* db, const T* dy, const T* y, int64_t m, int64_t n, acc_t<T>* scratch, void* stream) {
  const int64_t pieces = ceil_div(m, kMaskRows);
  if (n == 0) return;
  const auto run = [&]<int kWide>() {
    constexpr unsigned kRowsOfBlocks = 65535;
    for (int64_t i = 0; i < pieces; i += kRowsOfBlocks) {
      const int64_t row = i * kMaskRows, count = std::min<int64_t>(kRowsOfBlocks, pieces - i);
      launch<relu_backward_kernel<T, kWide>>({blocks(n, 32 * kWide), static_cast<unsigned>(count)}, 32 * kMaskWarps, 0,
                                             stream, dz ? dz + row * n : nullptr, db ? scratch + i * n : nullptr,
                                             dy + row * n, y ? y + row * n : nullptr, m - row, n);
    }
  };
  if (n % kPack<T> == 0 && aligned(dz) && aligned(dy) && aligned(y))
    run.template operator()<kPack<T>>();
  else
    run.template operator()<1>();
  if (db)
    launch<add_rows_kernel<T>>(blocks(n, 8), 256, 0, stream, db, static_cast<const acc_t<T>*>(scratch), pieces, n);
}

#define INSTANTIATE(T)                                                                               \
  template int64_t matmul_scratch_size<T>(MatmulShape);                                              \
  template void matmul(T*, const T*, const T*, const T*, bool, bool, MatmulShape, acc_t<T>*, void*); \
  template int64_t relu_backward_scratch_size<T>(int64_t, int64_t);                                  \
  template void relu_backward(T*, T*, const T*, const T*, int64_t, int64_t, acc_t<T>*, void*)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cuda
