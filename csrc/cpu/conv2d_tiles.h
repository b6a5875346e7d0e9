// The three products of a convolution on images in lanes: forward, weight gradient, input gradient. Each keeps a tile
// of kK x kQ vectors in registers; a weight is one scalar, broadcast. Per step of a 4 x 4 tile: 4 loads, 4 broadcasts,
// 16 multiply-adds, so the multiply-add units are the bound.
// Stride and dilation are only distances between the vectors read.
#ifndef TORCHEXT_CONV2D_TILES
#define TORCHEXT_CONV2D_TILES
#include "epilogue.h"
#include "image_lanes.h"

// Inlined, its addresses would share registers with the caller's and be spilled in the innermost loop.
#define TILE [[gnu::noinline]]

namespace torchext::cpu::ISA {
inline constexpr int kPixels = ISA_LEVEL == 512 ? 4 : 2;  // 6 x kPixels accumulators fit 32 or 16 registers

// Channels are taken in blocks of one size: the one that divides n,
// else 4 with the last block overlapping the one before.
inline int64_t block_of(int64_t n) {
  for (int64_t size : {6, 4, 3})
    if (n % size == 0) return size;
  return n > 4 ? 4 : 1;
}
inline int64_t block_count(int64_t n) { return (n + block_of(n) - 1) / block_of(n); }

struct Block {
  int64_t first, skip;
};  // its first channel, and how many of its channels the block before has done
inline Block block_at(int64_t i, int64_t size, int64_t n) {
  const int64_t first = std::min(i * size, n - size);
  return {first, i * size - first};
}

template <typename F>
inline void with_block(int64_t size, F&& f) {
  switch (size) {
    case 6:
      return f.template operator()<6>();
    case 4:
      return f.template operator()<4>();
    case 3:
      return f.template operator()<3>();
    default:
      return f.template operator()<1>();
  }
}

// Tiles of kPixels along a row of n, the last one overlapping; single pixels where the row is shorter than a tile.
template <typename F>
inline void for_pixels(int64_t n, F&& f) {
  if (n < kPixels) {
    for (int64_t i = 0; i < n; ++i) f.template operator()<1>(i, 0);
  } else {
    for (int64_t i = 0; i < n; i += kPixels) {
      const int64_t first = std::min(i, n - kPixels);
      f.template operator()<kPixels>(first, i - first);
    }
  }
}

// Vectors from one plane to the next, odd: a power of two would put all
// channels of a pixel in one set of the first cache.
inline int64_t x_plane(ConvShape s) { return (s.h + 2 * s.ph) * (s.w + 2 * s.pw) | 1; }
inline int64_t dz_plane(ConvShape s) { return s.p * s.q | 1; }

// The taps of one kernel over one group's channels, and where each finds its vector, counted from the window's corner.
struct Taps {
  int64_t c, r, s, plane, row, column;
};  // distances in scalars of the scratch

// z[k][q] = bias[k] + sum over taps of w * x, then the epilogue.
template <int kK, int kQ, typename A>
TILE void forward_tile(A* z, int64_t z_plane, const A* x, int64_t x_step, const A* w, const A* bias, Epilogue epilogue,
                       Taps t) {
  constexpr int L = kLanes<A>;
  Vec<A> acc[kK][kQ];
#pragma GCC unroll 8
  for (int k = 0; k < kK; ++k)
#pragma GCC unroll 8
    for (int q = 0; q < kQ; ++q) acc[k][q] = splat<Vec<A>>(bias[k]);
  for (int64_t c = 0; c < t.c; ++c)
    for (int64_t r = 0; r < t.r; ++r) {
      const A* from = x + c * t.plane + r * t.row;
      for (int64_t s = 0; s < t.s; ++s, from += t.column, w += kK) {
        Vec<A> v[kQ];
#pragma GCC unroll 8
        for (int q = 0; q < kQ; ++q) v[q] = load(from + q * x_step);
#pragma GCC unroll 8
        for (int k = 0; k < kK; ++k) {
          const auto weight = splat<Vec<A>>(w[k]);
#pragma GCC unroll 8
          for (int q = 0; q < kQ; ++q) acc[k][q] += weight * v[q];
        }
      }
    }
#pragma GCC unroll 8
  for (int k = 0; k < kK; ++k)
#pragma GCC unroll 8
    for (int q = 0; q < kQ; ++q) store<A>(z + k * z_plane + q * L, apply(epilogue, acc[k][q]));
}

// sums[k][t] += sum over rows and pixels of dz[k] * x at tap t,
// for the channels from skip_k and the taps from skip_t on.
template <int kK, int kT, typename A>
TILE void weight_tile(A* sums, int64_t sums_row, const A* dz, int64_t dz_plane, const A* x, const int32_t* taps,
                      int64_t rows, int64_t columns, int64_t x_row, int64_t x_step, int64_t skip_k, int64_t skip_t) {
  constexpr int L = kLanes<A>;
  Vec<A> acc[kK][kT] = {};
  const A* at[kT];
#pragma GCC unroll 8
  for (int t = 0; t < kT; ++t) at[t] = x + taps[t];
  for (int64_t p = 0; p < rows; ++p)
    for (int64_t q = 0; q < columns; ++q) {
      const int64_t i = p * x_row + q * x_step;
      Vec<A> g[kK];
#pragma GCC unroll 8
      for (int k = 0; k < kK; ++k) g[k] = load(dz + k * dz_plane + (p * columns + q) * L);
#pragma GCC unroll 8
      for (int t = 0; t < kT; ++t) {
        const Vec<A> v = load(at[t] + i);
#pragma GCC unroll 8
        for (int k = 0; k < kK; ++k) acc[k][t] += v * g[k];
      }
    }
#pragma GCC unroll 8
  for (int k = 0; k < kK; ++k)
#pragma GCC unroll 8
    for (int t = 0; t < kT; ++t)
      if (k >= skip_k && t >= skip_t) {
        A* to = sums + k * sums_row + t * L;
        store<A>(to, load(to) + acc[k][t]);
      }
}

// dx[c][q] += sum over rows dz[row] and channels k of w[row][k][c] * dz[row][k][q], for c >= skip_c and q >= skip_q.
template <int kC, int kQ, typename A>
TILE void input_tile(A* dx, int64_t dx_plane, int64_t dx_step, const A* const* dz, const A* const* w, int64_t rows,
                     int64_t channels, int64_t dz_plane, int64_t q0, int64_t skip_c, int64_t skip_q) {
  constexpr int L = kLanes<A>;
  Vec<A> acc[kC][kQ] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const A* from = dz[r] + q0 * L;
    const A* weights = w[r];
    for (int64_t k = 0; k < channels; ++k, from += dz_plane, weights += kC) {
      Vec<A> g[kQ];
#pragma GCC unroll 8
      for (int q = 0; q < kQ; ++q) g[q] = load(from + q * L);
#pragma GCC unroll 8
      for (int c = 0; c < kC; ++c) {
        const auto weight = splat<Vec<A>>(weights[c]);
#pragma GCC unroll 8
        for (int q = 0; q < kQ; ++q) acc[c][q] += weight * g[q];
      }
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < kC; ++c)
#pragma GCC unroll 8
    for (int q = 0; q < kQ; ++q)
      if (c >= skip_c && q >= skip_q) {
        A* to = dx + c * dx_plane + (q0 + q) * dx_step;
        store<A>(to, load(to) + acc[c][q]);
      }
}
}  // namespace torchext::cpu::ISA
#undef TILE
#endif
