// What the kernels of max_pool2d share: which thread has which place, and which windows move by pairs.
#pragma once
#include "../max_pool2d.h"
#include "divide.cuh"
#include "pack.cuh"

namespace torchext::cuda {
constexpr int kPoolThreads = 256;

// Thread n's place in [planes, rows, columns, packs]: neighbouring threads have neighbouring packs.
struct Place {
  int64_t plane, i, j, pack;
};
struct Places {
  Divisor rows, columns, packs;
  int64_t count;

  Places(int64_t planes, int64_t rows, int64_t columns, int64_t packs)
      : rows(rows), columns(columns), packs(packs), count(planes * rows * columns * packs) {}
  unsigned grid() const { return blocks(count, kPoolThreads); }
  __device__ __forceinline__ static int64_t number() { return blockIdx.x * int64_t(kPoolThreads) + threadIdx.x; }
  __device__ __forceinline__ Place operator()(int64_t n) const {
    Place place;
    place.pack = packs.split(n);
    place.j = columns.split(n);
    place.i = rows.split(n);
    place.plane = n;
    return place;
  }
};

// 2 x 2 windows side by side that fill each row of a contiguous plane: two rows of inputs stand above a row of outputs.
inline bool in_pairs(const PoolShape& s) {
  const bool two = s.kh == 2 && s.kw == 2 && s.sh == 2 && s.sw == 2;
  return s.channels == 1 && two && s.ph == 0 && s.pw == 0 && s.dh == 1 && s.dw == 1 && s.w == 2 * s.ow;
}

// Calls run.operator()<kWide>() for the widest pack of inputs, of two elements at least, that rows and pointers allow.
template <typename T, int kWide = kPack<T>, typename Run>
bool run_in_pairs(const T* inputs, const T* outputs, const uint8_t* offsets, const PoolShape& s, Run&& run) {
  if (s.w % kWide == 0 && aligned(inputs, kWide * sizeof(T)) && aligned(outputs, kWide / 2 * sizeof(T)) &&
      aligned(offsets, kWide / 2)) {
    run.template operator()<kWide>();
    return true;
  }
  if constexpr (kWide > 2) return run_in_pairs<T, kWide / 2>(inputs, outputs, offsets, s, run);
  return false;
}

// Calls run.operator()<kWide>() for packs along the channels, or for single elements.
template <typename T, typename Run>
void run_along_channels(const T* a, const T* b, const uint8_t* offsets, const PoolShape& s, Run&& run) {
  if (s.channels % kPack<T> == 0 && aligned(a) && aligned(b) && aligned(offsets, kPack<T>))
    run.template operator()<kPack<T>>();
  else
    run.template operator()<1>();
}
}  // namespace torchext::cuda
