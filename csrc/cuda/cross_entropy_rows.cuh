// Cross-entropy where a position's classes lie side by side: kThreads threads a row, 8 or 32 with several rows a block,
// or a whole block. Forward reads x once and backward reads x and writes dx once; bound by bandwidth. A thread loads a
// batch before it uses any of it, and rescales its sums once a batch; rows up to kThreads batches stay in registers.
#pragma once
#include "cross_entropy_softmax.cuh"

namespace torchext::cuda {
// 512 threads a processor at least: free to choose, ptxas spills a few bytes to fit some more.
template <int kThreads>
constexpr int kRowBlock = kThreads == 8    ? 256
                          : kThreads < 128 ? 128
                                           : kThreads;
template <int kThreads>
constexpr int kRowLanes = kThreads < 32 ? kThreads : 32;

// How a row is cut: single elements up to the first aligned pack, packs, and single elements again.
template <typename T, int kWide>
struct RowParts {
  int64_t head, packs, singles;

  __device__ __forceinline__ RowParts(const T* row, int64_t c) {
    head = kWide == 1 ? 0 : static_cast<int64_t>((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(T));
    if (head > c) head = c;
    packs = (c - head) / kWide;
    singles = kWide == 1 ? 0 : c - packs * kWide;
  }
  __device__ __forceinline__ int64_t pack(int64_t k) const { return head + k * kWide; }
  __device__ __forceinline__ int64_t single(int64_t i) const { return i < head ? i : packs * kWide + i; }
};

// How many packs a thread has under way: 64 bytes, or all of a row of up to 64 classes; half as much of doubles, whose
// exp takes registers, and where target weights are to be loaded and multiplied.
template <int kThreads, int kWide, bool kSoft>
constexpr int kRowBatch = (kWide == 1      ? 8
                           : kWide == 2    ? 2
                           : kThreads == 8 ? 8 / kWide
                                           : 4) /
                          (kSoft && kWide < 8 ? 2 : 1);

// How many of a batch there are, with `left` packs from this thread's first on.
template <int kThreads, int kBatch>
__device__ __forceinline__ int in_batch(int64_t left) {
  return left >= kBatch * kThreads ? kBatch : (static_cast<int>(left) + kThreads - 1) / kThreads;
}

// The first lane's value of the row's lanes in each warp.
template <int kThreads, typename T>
__device__ __forceinline__ T from_first_lane(T x) {
  constexpr int kLanes = kRowLanes<kThreads>;
  unsigned mask = 0xFFFFFFFF;
  if constexpr (kLanes < 32) mask = ((1u << kLanes) - 1) << threadIdx.x % 32 / kLanes * kLanes;
  return __shfl_sync(mask, x, 0, kLanes);
}

template <int kThreads, typename T, typename Op = Add>
__device__ __forceinline__ T row_reduce(T x, Op op = {}) {
  if constexpr (kThreads <= 32)
    return warp_reduce<kThreads>(x, op);
  else
    return block_reduce<kThreads>(x, op);
}

// Adds the classes from j on to r, whose maximum is none of theirs below.
template <bool kSoft, int kWide, typename T>
__device__ __forceinline__ void take(Running<acc_t<T>>& r, const Pack<T, kWide>& x, const Target<T>& target,
                                     const T* probability, int64_t j, int64_t index) {
  using A = acc_t<T>;
  A sum = 0;
#pragma unroll
  for (int i = 0; i < kWide; ++i) sum += exponential(static_cast<A>(x[i]) - r.max);
  r.sum += sum;
  if constexpr (kSoft) {
    const Pack<T, kWide> q = probability ? load<kWide>(probability + j) : x;
#pragma unroll
    for (int i = 0; i < kWide; ++i) r.add_weighted(target_weight(target, j + i, q[i]), static_cast<A>(x[i]));
  }
  const int at = place_in<kWide>(index, j);
#pragma unroll
  for (int i = 0; i < kWide; ++i)
    if (at == i) r.at = static_cast<A>(x[i]);
}

template <int kWide, typename T>
__device__ __forceinline__ acc_t<T> highest(acc_t<T> top, const Pack<T, kWide>& x) {
#pragma unroll
  for (int i = 0; i < kWide; ++i)
    if (static_cast<acc_t<T>>(x[i]) > top) top = static_cast<acc_t<T>>(x[i]);
  return top;
}

// All that a thread has of a row.
template <int kThreads, int kWide, bool kSoft, typename T>
__device__ __forceinline__ void take_row(Running<acc_t<T>>& r, const T* x, const Target<T>& target,
                                         const T* probability, int64_t c, int lane, int64_t index) {
  using A = acc_t<T>;
  constexpr int kBatch = kRowBatch<kThreads, kWide, kSoft>;
  const RowParts<T, kWide> parts(x, c);
  for (int64_t k = lane; k < parts.packs; k += kBatch * kThreads) {
    const int64_t j = parts.pack(k);
    const int count = in_batch<kThreads, kBatch>(parts.packs - k);
    Pack<T, kWide> v[kBatch];
    A top = r.max;
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (u < count) v[u] = load<kWide>(x + j + u * kThreads * kWide);
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (u < count) top = highest(top, v[u]);
    r.raise(top);
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (u < count) take<kSoft>(r, v[u], target, probability, j + u * kThreads * kWide, index);
  }
  for (int64_t i = lane; i < parts.singles; i += kThreads) {
    const int64_t j = parts.single(i);
    const Pack<T, 1> v = load<1>(x + j);
    r.raise(highest(r.max, v));
    take<kSoft>(r, v, target, probability, j, index);
  }
}

template <typename T, int kThreads, int kWide>
__global__ void __launch_bounds__(kRowBlock<kThreads>, 512 / kRowBlock<kThreads>)
    softmax_rows_kernel(Forward<T> f, int64_t rows_each) {
  using A = acc_t<T>;
  const int lane = threadIdx.x % kThreads;
  const int64_t row0 = blockIdx.x * rows_each, row1 = row0 + rows_each < f.s.n ? row0 + rows_each : f.s.n;
  LossAndWeight total;
  for (int64_t row = row0 + threadIdx.x / kThreads; row < row1; row += kRowBlock<kThreads> / kThreads) {
    const T* x = f.x + row * f.s.c;
    const T* probability = f.target.probability ? f.target.probability + row * f.s.c : nullptr;
    int64_t index = -1;
    if (f.target.index) {
      if (lane % 32 == 0) index = load(f.target.index + row);
      index = from_first_lane<kThreads>(index);
    }
    Running<A> r;
    if (soft(f.target))
      take_row<kThreads, kWide, true>(r, x, f.target, probability, f.s.c, lane, index);
    else
      take_row<kThreads, kWide, false>(r, x, f.target, probability, f.s.c, lane, index);
    r.raise(row_reduce<kThreads>(r.max, Max()));
    r.sum = row_reduce<kThreads>(r.sum);
    if (f.target.index) r.at = row_reduce<kThreads>(r.at);
    if (soft(f.target)) {
      r.dot = row_reduce<kThreads>(r.dot);
      r.q_sum = row_reduce<kThreads>(r.q_sum);
    }
    if (lane == 0) finish(total, f, r, row, index);
  }
  store_sums<kRowBlock<kThreads>>(f, total);
}

template <int kThreads, int kWide, bool kSoft, typename T>
__device__ __forceinline__ void gradient_row(const Backward<T>& b, const GradientFactors<acc_t<T>>& g, T* dx,
                                             const T* x, const T* probability, int lane) {
  constexpr int kBatch = kRowBatch<kThreads, kWide, kSoft>;
  const RowParts<T, kWide> parts(x, b.s.c);
  for (int64_t k = lane; k < parts.packs; k += kBatch * kThreads) {
    const int64_t j0 = parts.pack(k);
    const int count = in_batch<kThreads, kBatch>(parts.packs - k);
    Pack<T, kWide> v[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (u < count) v[u] = load_once<kWide>(x + j0 + u * kThreads * kWide);
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      if (u >= count) continue;
      const int64_t j = j0 + u * kThreads * kWide;
      const Pack<T, kWide> q = kSoft && probability ? load_once<kWide>(probability + j) : v[u];
      const int at = place_in<kWide>(g.index, j);
#pragma unroll
      for (int i = 0; i < kWide; ++i) v[u][i] = gradient<kSoft>(b, g, v[u][i], j + i, q[i], at == i);
      store(dx + j, v[u]);
    }
  }
  for (int64_t i = lane; i < parts.singles; i += kThreads) {
    const int64_t j = parts.single(i);
    const T v = load(x + j);
    store(dx + j, gradient<kSoft>(b, g, v, j, kSoft && probability ? load(probability + j) : v, j == g.index));
  }
}

template <typename T, int kThreads, int kWide>
__global__ void __launch_bounds__(kRowBlock<kThreads>, 512 / kRowBlock<kThreads>)
    gradient_rows_kernel(Backward<T> b, int64_t rows_each) {
  using A = acc_t<T>;
  const int lane = threadIdx.x % kThreads;
  const int64_t row0 = blockIdx.x * rows_each, row1 = row0 + rows_each < b.s.n ? row0 + rows_each : b.s.n;
  const A scale = common_scale(b), even = b.target.index && b.target.even != 0 ? even_total(b.target, b.s.c) : A(0);
  for (int64_t row = row0 + threadIdx.x / kThreads; row < row1; row += kRowBlock<kThreads> / kThreads) {
    const T* x = b.x + row * b.s.c;
    T* dx = b.dx + row * b.s.c;
    const T* probability = b.target.probability ? b.target.probability + row * b.s.c : nullptr;
    GradientFactors<A> g{};
    if (lane % 32 == 0) g = gradient_factors(b, scale, even, row);
    g = {from_first_lane<kThreads>(g.max), from_first_lane<kThreads>(g.softmax), from_first_lane<kThreads>(g.gradient),
         from_first_lane<kThreads>(g.at_index), from_first_lane<kThreads>(g.index)};
    if (soft(b.target))
      gradient_row<kThreads, kWide, true>(b, g, dx, x, probability, lane);
    else
      gradient_row<kThreads, kWide, false>(b, g, dx, x, probability, lane);
  }
}
}  // namespace torchext::cuda
