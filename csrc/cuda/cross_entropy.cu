// cross_entropy: which kernel serves which shape, and the loss of all positions from the sums of the blocks.
#include "../cross_entropy.h"

#include <algorithm>

#include "cross_entropy_planes.cuh"
#include "cross_entropy_rows.cuh"

namespace torchext::cuda {
namespace {
constexpr int kTotalThreads = 512;
constexpr int64_t kRowBlocks = 8192;    // at most about so many: each leaves its sums to total_kernel
constexpr int64_t kManyClasses = 1024;  // from so many on, several warps share a position of a plane

// The loss and the total weight from the blocks' sums, in an order fixed by their count.
template <typename T>
__global__ void __launch_bounds__(kTotalThreads)
    total_kernel(T* loss, acc_t<T>* total_weight, bool mean, const double* sums, int64_t count) {
  LossAndWeight total;
  for (int64_t i = threadIdx.x; i < count; i += kTotalThreads) {
    const Pack<double, 2> part = load<2>(sums + 2 * i);
    total.loss += part[0];
    total.weight += part[1];
  }
  const double sum = block_reduce<kTotalThreads>(total.loss), weight = block_reduce<kTotalThreads>(total.weight);
  if (threadIdx.x != 0) return;
  store(total_weight, static_cast<acc_t<T>>(weight));
  // Smoothing gives targets of weight 0 a loss, and sum / 0 would be infinite: the mean over no weight is NaN.
  const double average = weight == 0 ? static_cast<double>(NAN) : sum / weight;
  if (loss) store(loss, static_cast<T>(mean ? average : sum));
}

template <typename T>
__global__ void __launch_bounds__(kTotalThreads) sum_weights_kernel(acc_t<T>* sum, const T* weight, int64_t c) {
  double total = 0;
  for (int64_t j = threadIdx.x; j < c; j += kTotalThreads) total += static_cast<double>(load(weight + j));
  total = block_reduce<kTotalThreads>(total);
  if (threadIdx.x == 0) store(sum, static_cast<acc_t<T>>(total));
}

// Calls f.operator()<kThreads>() with as many threads as suit a row of c classes.
template <typename F>
auto with_row_threads(int64_t c, F&& f) {
  if (c <= 64) return f.template operator()<8>();
  if (c <= 2048) return f.template operator()<32>();
  if (c <= 16384) return f.template operator()<128>();
  return f.template operator()<512>();
}

template <int kThreads>
int64_t rows_each(int64_t rows) {
  constexpr int64_t kAtOnce = kRowBlock<kThreads> / kThreads;
  return ceil_div(ceil_div(rows, kRowBlocks), kAtOnce) * kAtOnce;
}

// Whether rows may be read by packs: aligned ones must be at the same places in all that goes with x. Short rows have
// too few packs for what lies between rows' starts and them to be worth while.
template <typename T>
bool row_packs(const T* x, std::initializer_list<const T*> others, int64_t c) {
  const auto offset = [](const T* p) { return reinterpret_cast<uintptr_t>(p) % 16; };
  for (const T* p : others)
    if (p && offset(p) != offset(x)) return false;
  return c > 64 || (c % kPack<T> == 0 && offset(x) == 0);
}

template <typename T>
bool plane_packs(std::initializer_list<const T*> all, int64_t s) {
  return s % kPack<T> == 0 && std::all_of(all.begin(), all.end(), [](const T* p) { return aligned(p); });
}

// Blocks of the forward kernel at least; those of scalar planes.
int64_t plane_blocks(ClassShape s, int wide, int split) { return ceil_div(s.n * s.s, kPlaneBlock / split * wide); }
int plane_split(ClassShape s) { return s.c >= kManyClasses ? 4 : 1; }

template <typename T>
int64_t forward_blocks(ClassShape s, bool packs) {
  if (s.s > 1) return plane_blocks(s, packs ? kPack<T> : 1, plane_split(s));
  return with_row_threads(s.c, [&]<int kThreads>() { return ceil_div(s.n, rows_each<kThreads>(s.n)); });
}

// Calls f.operator()<kWide, kSplit>().
template <typename T, typename F>
void with_plane(ClassShape s, bool packs, F&& f) {
  if (plane_split(s) > 1)
    packs ? f.template operator()<kPack<T>, 4>() : f.template operator()<1, 4>();
  else
    packs ? f.template operator()<kPack<T>, 1>() : f.template operator()<1, 1>();
}
}  // namespace

template <typename T>
int64_t cross_entropy_scratch_size(ClassShape s) {
  return s.n * s.s == 0 ? 0 : 2 * forward_blocks<T>(s, false);
}

template <typename T>
int64_t cross_entropy(T* losses, SoftmaxStats<acc_t<T>> stats, const T* x, const Target<T>& target, ClassShape s,
                      double* scratch, void* stream) {
  const Forward<T> f{losses, stats, scratch, x, target, s};
  int64_t count = 0;
  if (s.n * s.s > 0 && s.s > 1) {
    const bool packs = plane_packs<T>({x, target.probability}, s.s);
    count = forward_blocks<T>(s, packs);
    with_plane<T>(s, packs, [&]<int kWide, int kSplit>() {
      launch<softmax_planes_kernel<T, kWide, kSplit>>(blocks(count, 1), kPlaneBlock, 0, stream, f);
    });
  } else if (s.n > 0 && s.s > 0) {
    count = forward_blocks<T>(s, false);
    with_row_threads(s.c, [&]<int kThreads>() {
      const auto run = [&]<int kWide>() {
        launch<softmax_rows_kernel<T, kThreads, kWide>>(blocks(count, 1), kRowBlock<kThreads>, 0, stream, f,
                                                        rows_each<kThreads>(s.n));
      };
      row_packs(x, {target.probability}, s.c) ? run.template operator()<kPack<T>>() : run.template operator()<1>();
    });
  }
  return count;
}

template <typename T>
void total_loss(T* loss, acc_t<T>* total_weight, bool mean, const double* sums, int64_t count, void* stream) {
  launch<total_kernel<T>>(1, kTotalThreads, 0, stream, loss, total_weight, mean, sums, count);
}

template <typename T>
void cross_entropy_backward(T* dx, const T* dloss, bool each, const acc_t<T>* divisor, const T* x,
                            const Target<T>& target, SoftmaxStats<const acc_t<T>> stats, ClassShape s, void* stream) {
  if (s.n * s.s == 0) return;
  const Backward<T> b{dx, dloss, each, divisor, x, target, stats, s};
  if (s.s > 1)
    return with_plane<T>(s, plane_packs<T>({dx, x, target.probability}, s.s), [&]<int kWide, int kSplit>() {
      launch<gradient_planes_kernel<T, kWide, kSplit>>(blocks(plane_blocks(s, kWide, kSplit), 1), kPlaneBlock, 0,
                                                       stream, b);
    });
  with_row_threads(s.c, [&]<int kThreads>() {
    const int64_t each_block = rows_each<kThreads>(s.n);
    const auto run = [&]<int kWide>() {
      launch<gradient_rows_kernel<T, kThreads, kWide>>(blocks(s.n, each_block), kRowBlock<kThreads>, 0, stream, b,
                                                       each_block);
    };
    row_packs<T>(x, {dx, target.probability}, s.c) ? run.template operator()<kPack<T>>() : run.template operator()<1>();
  });
}

template <typename T>
void sum_weights(acc_t<T>* sum, const T* weight, int64_t c, void* stream) {
  launch<sum_weights_kernel<T>>(1, kTotalThreads, 0, stream, sum, weight, c);
}

#define INSTANTIATE(T)                                                                                                \
  template int64_t cross_entropy_scratch_size<T>(ClassShape);                                                         \
  template int64_t cross_entropy(T*, SoftmaxStats<acc_t<T>>, const T*, const Target<T>&, ClassShape, double*, void*); \
  template void total_loss(T*, acc_t<T>*, bool, const double*, int64_t, void*);                                       \
  template void cross_entropy_backward(T*, const T*, bool, const acc_t<T>*, const T*, const Target<T>&,               \
                                       SoftmaxStats<const acc_t<T>>, ClassShape, void*);                              \
  template void sum_weights(acc_t<T>*, const T*, int64_t, void*)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cuda
