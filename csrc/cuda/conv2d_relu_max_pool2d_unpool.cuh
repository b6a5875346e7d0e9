// The gradient before ReLU and pooling, dz, put together in shared memory, a tile at a time: dy at its taps, zeros
// elsewhere. Windows that overlap take turns, so that no two add to one element at once and the order is fixed.
#pragma once
#include "../conv2d_relu_max_pool2d.h"
#include "conv2d_relu_max_pool2d_tile.cuh"

namespace torchext::cuda {
using cpu::kDead;

// The pooling windows that may name one of `size` elements from `first` on, along one axis.
struct Windows {
  int64_t first, last;
  __device__ __forceinline__ Windows(int64_t begin, int64_t end, int64_t count, int64_t k, int64_t stride,
                                     int64_t pad) {
    const int64_t reach = begin + pad - k + 1, stop = end > begin && end + pad > 0 ? (end - 1 + pad) / stride + 1 : 0;
    first = reach > 0 ? (reach + stride - 1) / stride : 0;
    last = stop < count ? stop : count;
  }
  // At most, wherever the elements begin.
  static int64_t most(int64_t size, int64_t count, int64_t k, int64_t stride) {
    return std::min(count, (size + k - 2) / stride + 1);
  }
};

template <typename T>
struct Pooled {
  const T* dy;
  const uint8_t* offsets;
  ConvPool pool;
  int64_t k;  // channels of dy
  int turns_h, turns_w;
  Box box;  // windows that a tile of rows x columns of dz may need
  Divisor across;

  Pooled(const T* dy, const uint8_t* offsets, const ConvShape& s, const ConvPool& pool, int64_t channels, int64_t rows,
         int64_t columns)
      : dy(dy),
        offsets(offsets),
        pool(pool),
        k(s.k),
        turns_h(static_cast<int>((pool.kh + pool.sh - 1) / pool.sh)),
        turns_w(static_cast<int>((pool.kw + pool.sw - 1) / pool.sw)),
        box(channels, Windows::most(rows, pool.p, pool.kh, pool.sh), Windows::most(columns, pool.q, pool.kw, pool.sw),
            s.channels_last),
        across(pool.kw) {}
};

// Fills `tile`, of `size` elements, from images n0.., channels [k0, k1), and rows [row0, row1) and columns [column0,
// column1) of dz; place(image, channel, row, column) is where an element of that region lies. A barrier must follow.
template <typename T, typename Place>
__device__ __forceinline__ void unpool(acc_t<T>* tile, int size, const Pooled<T>& from, int64_t n0, int count,
                                       int64_t k0, int64_t k1, int64_t row0, int64_t row1, int64_t column0,
                                       int64_t column1, Place&& place) {
  const ConvPool& pool = from.pool;
  const Windows down(row0, row1, pool.p, pool.kh, pool.sh, pool.ph),
      across(column0, column1, pool.q, pool.kw, pool.sw, pool.pw);
  set_zero(tile, size);
#pragma unroll 1
  for (int turn = 0; turn < from.turns_h * from.turns_w; ++turn) {
    __syncthreads();
    const int turn_h = turn / from.turns_w, turn_w = turn % from.turns_w;
#pragma unroll 1
    for (int e = threadIdx.x; e < count * from.box.image; e += blockDim.x) {
      const Box::Place at = from.box(e);
      const int64_t p = down.first + at.row, q = across.first + at.column, k = k0 + at.channel;
      if (p >= down.last || q >= across.last || k >= k1) continue;
      if (from.turns_h > 1 && p % from.turns_h != turn_h) continue;
      if (from.turns_w > 1 && q % from.turns_w != turn_w) continue;
      const int64_t n = n0 + at.image, pixel = p * pool.q + q, plane = pool.p * pool.q;
      const int64_t i = from.box.last ? (n * plane + pixel) * from.k + k : (n * from.k + k) * plane + pixel;
      int tap = load(from.offsets + i);
      const acc_t<T> g = static_cast<acc_t<T>>(load(from.dy + i));
      if (tap == kDead) continue;
      const int column = from.across.split(tap);
      const int64_t row = p * pool.sh - pool.ph + tap - row0, right = q * pool.sw - pool.pw + column - column0;
      if (row < 0 || row >= row1 - row0 || right < 0 || right >= column1 - column0) continue;
      tile[place(at.image, at.channel, static_cast<int>(row), static_cast<int>(right))] += g;
    }
  }
}
}  // namespace torchext::cuda
