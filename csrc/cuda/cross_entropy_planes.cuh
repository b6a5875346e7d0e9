// Cross-entropy of [n, c, s > 1]: lanes run along s, kWide positions a thread, which walks down the classes; where
// these are many, kSplit warps of a block take every kSplit-th batch of them. Forward reads x once and backward reads x
// and writes dx once; bound by bandwidth.
#pragma once
#include "cross_entropy_softmax.cuh"

namespace torchext::cuda {
constexpr int kPlaneBlock = 128;  // 3 of them a processor: free to choose, ptxas spills to fit a fourth
constexpr int kPlaneBatch = 4;    // classes that a thread has under way

template <typename T, int kWide, int kSplit>
__global__ void __launch_bounds__(kPlaneBlock, 3) softmax_planes_kernel(Forward<T> f) {
  using A = acc_t<T>;
  constexpr int kColumns = kPlaneBlock / kSplit;
  struct Scratch {
    Running<A> r[kSplit > 1 ? kSplit - 1 : 1][kWide][kColumns];
  };
  const int column = threadIdx.x % kColumns, part = threadIdx.x / kColumns;
  const int64_t position = (blockIdx.x * int64_t(kColumns) + column) * kWide;
  const bool inside = position < f.s.n * f.s.s;
  Running<A> r[kWide];
  int64_t index[kWide];
#pragma unroll
  for (int i = 0; i < kWide; ++i) index[i] = inside && f.target.index ? load(f.target.index + position + i) : -1;
  if (inside) {
    const int64_t at = position / f.s.s * f.s.c * f.s.s + position % f.s.s;
    for (int64_t j0 = part * kPlaneBatch; j0 < f.s.c; j0 += kSplit * kPlaneBatch) {
      Pack<T, kWide> v[kPlaneBatch];
#pragma unroll
      for (int u = 0; u < kPlaneBatch; ++u)
        if (j0 + u < f.s.c) v[u] = load<kWide>(f.x + at + (j0 + u) * f.s.s);
#pragma unroll
      for (int i = 0; i < kWide; ++i) {
        A top = r[i].max, sum = 0;
#pragma unroll
        for (int u = 0; u < kPlaneBatch; ++u)
          if (j0 + u<f.s.c&& static_cast<A>(v[u][i])> top) top = static_cast<A>(v[u][i]);
        r[i].raise(top);
#pragma unroll
        for (int u = 0; u < kPlaneBatch; ++u) {
          if (j0 + u >= f.s.c) continue;
          const A logit = static_cast<A>(v[u][i]);
          sum += exponential(logit - top);
          if (j0 + u == index[i]) r[i].at = logit;
        }
        r[i].sum += sum;
      }
      if (soft(f.target))
#pragma unroll
        for (int u = 0; u < kPlaneBatch; ++u) {
          if (j0 + u >= f.s.c) continue;
          const Pack<T, kWide> q =
              f.target.probability ? load<kWide>(f.target.probability + at + (j0 + u) * f.s.s) : v[u];
#pragma unroll
          for (int i = 0; i < kWide; ++i)
            r[i].add_weighted(target_weight(f.target, j0 + u, q[i]), static_cast<A>(v[u][i]));
        }
    }
  }
  if constexpr (kSplit > 1) {
    Scratch& scratch = shared<Scratch>();
    if (part > 0)
#pragma unroll
      for (int i = 0; i < kWide; ++i) scratch.r[part - 1][i][column] = r[i];
    __syncthreads();
    if (part == 0)
#pragma unroll
      for (int i = 0; i < kWide; ++i)
        for (int p = 0; p < kSplit - 1; ++p) r[i].merge(scratch.r[p][i][column]);
  }
  LossAndWeight total;
  if (inside && part == 0)
#pragma unroll
    for (int i = 0; i < kWide; ++i) finish(total, f, r[i], position + i, index[i]);
  store_sums<kPlaneBlock>(f, total);
}

template <typename T, int kWide, int kSplit>
__global__ void __launch_bounds__(kPlaneBlock, 3) gradient_planes_kernel(Backward<T> b) {
  using A = acc_t<T>;
  constexpr int kColumns = kPlaneBlock / kSplit;
  const int column = threadIdx.x % kColumns, part = threadIdx.x / kColumns;
  const int64_t position = (blockIdx.x * int64_t(kColumns) + column) * kWide;
  const A scale = common_scale(b), even = b.target.index && b.target.even != 0 ? even_total(b.target, b.s.c) : A(0);
  if (position >= b.s.n * b.s.s) return;
  GradientFactors<A> g[kWide];
#pragma unroll
  for (int i = 0; i < kWide; ++i) g[i] = gradient_factors(b, scale, even, position + i);
  const int64_t at = position / b.s.s * b.s.c * b.s.s + position % b.s.s;
  for (int64_t j0 = part * kPlaneBatch; j0 < b.s.c; j0 += kSplit * kPlaneBatch) {
    Pack<T, kWide> v[kPlaneBatch];
#pragma unroll
    for (int u = 0; u < kPlaneBatch; ++u)
      if (j0 + u < b.s.c) v[u] = load_once<kWide>(b.x + at + (j0 + u) * b.s.s);
#pragma unroll
    for (int u = 0; u < kPlaneBatch; ++u) {
      if (j0 + u >= b.s.c) continue;
      const int64_t to = at + (j0 + u) * b.s.s;
      const Pack<T, kWide> q = b.target.probability ? load_once<kWide>(b.target.probability + to) : v[u];
#pragma unroll
      for (int i = 0; i < kWide; ++i) {
        const bool at_index = j0 + u == g[i].index;
        v[u][i] = soft(b.target) ? gradient<true>(b, g[i], v[u][i], j0 + u, q[i], at_index)
                                 : gradient<false>(b, g[i], v[u][i], j0 + u, q[i], at_index);
      }
      store(b.dx + to, v[u]);
    }
  }
}
}  // namespace torchext::cuda
