// linear_cross_entropy: its products and its softmax are other files' kernels; here, what adds a gradient's shares up,
// and the total weight that a mean's gradient is divided by before all the logits have been seen.
#include "../linear_cross_entropy.h"

#include "pack.cuh"
#include "reduce.cuh"

namespace torchext::cuda {
namespace {
constexpr int kAddThreads = 256, kWeightThreads = 512;

// A pack of accumulators a thread; share and sum are read once, sum or total is written once. Bound by bandwidth.
template <typename T, int kWide>
__global__ void __launch_bounds__(kAddThreads)
    add_share_kernel(T* total, acc_t<T>* sum, const T* share, Share place, int64_t count) {
  using A = acc_t<T>;
  const int64_t i = (blockIdx.x * int64_t(kAddThreads) + threadIdx.x) * kWide;
  if (i >= count) return;
  const Pack<T, kWide> more = load_once<kWide>(share + i);
  Pack<A, kWide> v;
  if (!place.first) v = load<kWide>(sum + i);
  Pack<T, kWide> rounded;
#pragma unroll
  for (int u = 0; u < kWide; ++u) {
    v[u] = place.first ? static_cast<A>(more[u]) : v[u] + static_cast<A>(more[u]);
    rounded[u] = static_cast<T>(v[u]);
  }
  if (place.last)
    store(total + i, rounded);
  else
    store(sum + i, v);
}

// One block, each thread every kWeightThreads-th position: the order of summation is fixed. Read once: the index.
template <typename T>
__global__ void __launch_bounds__(kWeightThreads)
    target_weight_kernel(acc_t<T>* total, const int64_t* index, const T* weight, int64_t ignore_index, int64_t c,
                         int64_t positions) {
  double sum = 0;
  for (int64_t p = index ? threadIdx.x : positions; p < positions; p += kWeightThreads) {
    const int64_t t = load(index + p);
    if (t != ignore_index && t >= 0 && t < c) sum += weight ? static_cast<double>(load(weight + t)) : 1.0;
  }
  sum = block_reduce<kWeightThreads>(sum);
  if (threadIdx.x == 0) store(total, static_cast<acc_t<T>>(index ? sum : static_cast<double>(positions)));
}
}  // namespace

template <typename T>
void add_share(T* total, acc_t<T>* sum, const T* share, Share place, int64_t count, void* stream) {
  constexpr int kWide = 16 / sizeof(acc_t<T>);
  if (count == 0) return;
  const auto run = [&]<int kLanes>() {
    launch<add_share_kernel<T, kLanes>>(blocks(count, kAddThreads * kLanes), kAddThreads, 0, stream, total, sum, share,
                                        place, count);
  };
  const bool packs =
      count % kWide == 0 && aligned(sum) && aligned(total, kWide * sizeof(T)) && aligned(share, kWide * sizeof(T));
  packs ? run.template operator()<kWide>() : run.template operator()<1>();
}

template <typename T>
void target_weight(acc_t<T>* total, const int64_t* index, const T* weight, int64_t ignore_index, int64_t c,
                   int64_t positions, void* stream) {
  launch<target_weight_kernel<T>>(1, kWeightThreads, 0, stream, total, index, weight, ignore_index, c, positions);
}

#define INSTANTIATE(T)                                                     \
  template void add_share(T*, acc_t<T>*, const T*, Share, int64_t, void*); \
  template void target_weight(acc_t<T>*, const int64_t*, const T*, int64_t, int64_t, int64_t, void*)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cuda
