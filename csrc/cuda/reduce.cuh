// Reductions over a warp or a block, in an order fixed by the thread's place alone: the same bits on every run.
#pragma once
#include "launch.cuh"

namespace torchext::cuda {
struct Add {
  template <typename T>
  __device__ T operator()(T x, T y) const {
    return x + y;
  }
};
struct Max {  // NaN wins, as in torch
  template <typename T>
  __device__ T operator()(T x, T y) const {
    return x != x || x > y ? x : y;
  }
};

// Over kLanes neighbouring lanes (a power of two), all of which must call it and all of which get the result.
template <int kLanes = 32, typename T, typename Op = Add>
__device__ __forceinline__ T warp_reduce(T x, Op op = {}) {
  static_assert(kLanes > 0 && kLanes <= 32 && (kLanes & (kLanes - 1)) == 0);
  unsigned mask = 0xFFFFFFFF;
  if constexpr (kLanes < 32)
    mask = ((1u << kLanes) - 1) << (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32 / kLanes *
                                       kLanes;
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x = op(x, __shfl_xor_sync(mask, x, step));
  return x;
}

// Over a block of kThreads threads in x (a multiple of 32), all of which get the result.
template <int kThreads, typename T, typename Op = Add>
__device__ __forceinline__ T block_reduce(T x, Op op = {}) {
  constexpr int kWarps = kThreads / 32;
  static_assert(kThreads % 32 == 0 && kWarps <= 32);
  x = warp_reduce(x, op);
  if constexpr (kWarps > 1) {
    struct Scratch {
      T warp[kWarps];
    };
    Scratch& scratch = shared<Scratch>();
    if (threadIdx.x % 32 == 0) scratch.warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = scratch.warp[0];
#pragma unroll
    for (int i = 1; i < kWarps; ++i) x = op(x, scratch.warp[i]);
    __syncthreads();  // the next reduction may reuse the scratch
  }
  return x;
}
}  // namespace torchext::cuda
