// dropout, in one pass: reads x and the seed once, writes y once, 2 sizeof(T) bytes an element; the mask lives in
// registers. Bound by memory: a block of philox.h's draws costs 14 wide multiplies and some 40 other integer
// instructions for 8 elements, half of what a multiprocessor issues while 32 bytes of bfloat16 come and go.
//
// A warp takes 32 blocks of draws at a time, a lane one block: its 8 decisions are 8 bits. Elements move in packs, lane
// by lane side by side, whatever their size: 8 bfloat16 are the lane's own block, 4 floats half the block of another
// lane, which a shuffle brings.
#include "../dropout.h"

#include <algorithm>

#include "pack.cuh"

namespace torchext::cuda {
template <typename T>
struct DropoutArguments {
  T* y;
  const T* x;
  const int64_t* seed;
  KeepThreshold threshold;
  acc_t<T> scale, shift, fill;
  int64_t count;
};

namespace {
constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kBlocksPerProcessor = 3;  // 48 KB of x under way; a fourth would not fit the registers

constexpr int kGroup = 32 * kDrawsPerBlock;  // elements of which each lane draws for one block

// Groups of a warp's step: a lane has 64 bytes under way, single elements half as many, for each takes a register.
template <typename T, int kWide>
constexpr int kGroups = std::max<int>(1, (kWide == 1 ? 4 : 8) / sizeof(T));

// One bit for each element of a block, set where it is kept.
__device__ __forceinline__ uint32_t keep_bits(uint64_t seed, uint64_t block, KeepThreshold threshold) {
  const PhiloxWords words = philox_block(seed, block, 0);
  const uint32_t limit = threshold.high << 16, twice = threshold.high * 0x10001;
  uint32_t kept = 0, tied = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t word = words.word[i], differs = word ^ twice;
    kept |= (word << 16 < limit ? 1u : 0u) << 2 * i | (word < limit ? 2u : 0u) << 2 * i;
    tied |= (differs - 0x10001) & ~differs & 0x80008000;  // not 0 if a half of `differs` is 0
  }
  if (tied) {
    const PhiloxWords second = philox_block(seed, block, 1);
#pragma unroll
    for (int i = 0; i < kDrawsPerBlock; ++i)
      if (block_draw(words, i) == threshold.high && block_draw(second, i) < threshold.low) kept |= 1u << i;
  }
  return kept;
}

// The first `left` elements of a pack; beyond come zeros.
template <int kWide, typename T>
__device__ __forceinline__ Pack<T, kWide> load_first(const T* p, int64_t left) {
  if (left >= kWide) return load_once<kWide>(p);
  Pack<T, kWide> pack;
#pragma unroll
  for (int e = 0; e < kWide; ++e) pack[e] = e < left ? load(p + e) : T(0);
  return pack;
}
template <int kWide, typename T>
__device__ __forceinline__ void store_first(T* p, const Pack<T, kWide>& pack, int64_t left) {
  if (left >= kWide) return store_once(p, pack);
#pragma unroll
  for (int e = 0; e < kWide; ++e)
    if (e < left) store(p + e, pack[e]);
}

// kCount groups from element `first` on, all of them there if kWhole. Lane 0 has the seed: it is waited for only when x
// is on its way too. Adding -0 changes nothing, so plain dropout has shift = fill = -0.
template <int kWide, int kCount, bool kWhole, typename T>
__device__ __forceinline__ void drop(const DropoutArguments<T>& a, uint64_t seed, int64_t first) {
  using A = acc_t<T>;
  constexpr unsigned kAll = 0xFFFFFFFF;
  constexpr int kPacks = kDrawsPerBlock / kWide;
  const int lane = threadIdx.x % 32;
  const int64_t mine = first + lane * kWide;
  const auto place = [](int g, int k) { return g * kGroup + k * 32 * kWide; };
  Pack<T, kWide> v[kCount][kPacks];
#pragma unroll
  for (int g = 0; g < kCount; ++g)
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int64_t i = mine + place(g, k);
      v[g][k] = kWhole ? load_once<kWide>(a.x + i) : load_first<kWide>(a.x + i, a.count - i);
    }
  const uint64_t key = __shfl_sync(kAll, seed, 0), block = static_cast<uint64_t>(first) / kDrawsPerBlock + lane;
  uint32_t own = 0;
#pragma unroll 2
  for (int g = 0; g < kCount; ++g) own |= keep_bits(key, block + 32 * g, a.threshold) << kDrawsPerBlock * g;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int element = (k * 32 + lane) * kWide;  // of a group
    const uint32_t kept =
        kPacks == 1 ? own : __shfl_sync(kAll, own, element / kDrawsPerBlock) >> element % kDrawsPerBlock;
#pragma unroll
    for (int g = 0; g < kCount; ++g) {
      Pack<T, kWide>& pack = v[g][k];
#pragma unroll
      for (int e = 0; e < kWide; ++e) {
        const bool keep = kept >> (kDrawsPerBlock * g + e) & 1;
        pack[e] = static_cast<T>(static_cast<A>(pack[e]) * (keep ? a.scale : A(0)) + (keep ? a.shift : a.fill));
      }
      const int64_t i = mine + place(g, k);
      kWhole ? store_once(a.y + i, pack) : store_first(a.y + i, pack, a.count - i);
    }
  }
}

// A warp takes step after step, and of what is left at the end a group. y may be x: a lane stores what it has loaded.
template <typename T, int kWide>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor) dropout_kernel(DropoutArguments<T> a) {
  constexpr int kStep = kGroups<T, kWide> * kGroup;
  const int64_t steps = a.count / kStep, end = steps + ceil_div(a.count % kStep, kGroup);
  const uint64_t seed = threadIdx.x % 32 == 0 ? static_cast<uint64_t>(load(a.seed)) : 0;
  for (int64_t i = blockIdx.x * int64_t(kWarps) + threadIdx.x / 32; i < end; i += int64_t(gridDim.x) * kWarps)
    if (i < steps)
      drop<kWide, kGroups<T, kWide>, true>(a, seed, i * kStep);
    else
      drop<kWide, 1, false>(a, seed, steps * kStep + (i - steps) * kGroup);
}
}  // namespace

template <typename T>
void dropout(T* y, const T* x, DropoutShape s, void* stream) {
  if (s.count == 0) return;
  using A = acc_t<T>;
  const auto addend = [](double value) { return static_cast<A>(value == 0 ? -0.0 : value); };
  const DropoutArguments<T> a{
      y, x, s.seed, keep_threshold(s.p), static_cast<A>(s.scale), addend(s.shift), addend(s.fill), s.count};
  const auto run = [&]<int kWide>() {
    const int64_t wanted = ceil_div(s.count, kWarps * kGroups<T, kWide> * kGroup);
    const int64_t together = kBlocksPerProcessor * processors();
    launch<dropout_kernel<T, kWide>>(blocks(std::min(wanted, together), 1), kThreads, 0, stream, a);
  };
  if (aligned(y) && aligned(x))
    run.template operator()<kPack<T>>();
  else
    run.template operator()<1>();
}

#define INSTANTIATE(T) template void dropout(T*, const T*, DropoutShape, void*)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cuda
