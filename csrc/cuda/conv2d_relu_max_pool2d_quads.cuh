// The product that forward and the input gradient share: a thread keeps 2 x 2 neighbouring results of kK channels in
// registers. One row of kS taps loads kS + 1 new columns in pairs and kS times kK weights (one address a warp, by 16
// bytes), for 4 kS kK multiply-adds: 16 accesses for 160 at kS = 5 and kK = 8, where the processor has time for 40. So
// the multiply-add units are the bound; other kernels, strides and dilations load each tap's 4 elements: 30 accesses.
#pragma once
#include <algorithm>

#include "conv2d_relu_max_pool2d_tile.cuh"

namespace torchext::cuda {
// What the results of one image need: `step` elements of the tile further from one to the next, `patch` for each.
struct Reach {
  int64_t n, groups, in, out;  // channels of a group
  int64_t rows, columns;       // results of one image
  int64_t step_h, step_w, patch_h, patch_w;
  int64_t taps;
};

// The results of a block: `images` x `rows` x `columns` of `blocks` blocks of channels, `lanes` of them at a time.
struct Tiling {
  TileShape tile;
  int images, rows, columns, blocks, lanes;
  int64_t down, across, tiles, slices;  // slices of a group's channels

  int positions() const { return images * rows * columns; }
  unsigned threads() const { return static_cast<unsigned>(ceil_div(positions() * lanes, 32) * 32); }
  // Two blocks a processor take turns, so that filters are staged once each.
  unsigned grid(int64_t groups) const {
    const int64_t all = groups * slices, stripes = std::max<int64_t>(1, 2 * processors() / all);
    return torchext::cuda::blocks(std::min(tiles, stripes) * all, 1);
  }
  bool whole(const Reach& r) const { return rows == r.rows && columns == r.columns; }
};

template <typename A>
int64_t shared_bytes(const Tiling& t, const Reach& r, int kK) {
  return (t.images * int64_t(t.tile.image) + (t.tile.channels * r.taps + 1) * t.blocks * kK) * int64_t(sizeof(A));
}

template <typename A>
Tiling plan_tiling(const Reach& r, int kK) {
  constexpr int64_t kThreads = kDirectThreads;
  int64_t rows = r.rows, columns = r.columns, channels = r.in, blocks = ceil_div(r.out, kK);
  if (rows * columns > kThreads) {
    columns = std::min<int64_t>(columns, 16);
    rows = std::min(rows, kThreads / columns);
  }
  int64_t lanes = std::min(blocks, kThreads / (rows * columns));
  int64_t images = std::min(kThreads / (rows * columns * lanes), std::max<int64_t>(1, r.n / processors()));
  for (;;) {
    const int64_t high = (rows - 1) * r.step_h + r.patch_h, wide = (columns - 1) * r.step_w + r.patch_w;
    const int64_t elements = images * channels * high * (wide + 1) + (channels * r.taps + 1) * blocks * kK;
    if (elements * int64_t(sizeof(A)) <= kDirectShared) {
      const int64_t down = ceil_div(r.rows, rows), across = ceil_div(r.columns, columns);
      return {TileShape::of_pairs(channels, high, wide),
              static_cast<int>(images),
              static_cast<int>(rows),
              static_cast<int>(columns),
              static_cast<int>(blocks),
              static_cast<int>(std::min(lanes, blocks)),
              down,
              across,
              ceil_div(r.n, images) * down * across,
              ceil_div(ceil_div(r.out, kK), blocks)};
    }
    int64_t* const parts[] = {&images, &blocks, &channels, &rows, &columns};
    const auto part = std::find_if(std::begin(parts), std::end(parts), [](int64_t* p) { return *p > 1; });
    if (part == std::end(parts)) throw std::runtime_error("conv2d_relu_max_pool2d: a window outgrows shared memory");
    **part = ceil_div(**part, 2);
  }
}

// A block's share: which channels of which group, its own tiles, and its threads' place in a tile.
struct Share {
  int64_t group, first;  // the first of its channels, within the group
  int64_t stripe, stripes;
  int image, row, column, lane;
  bool any;

  __device__ __forceinline__ Share(const Tiling& t, int64_t groups, int kK) {
    const unsigned all = static_cast<unsigned>(groups * t.slices), slices = static_cast<unsigned>(t.slices);
    const unsigned slice = blockIdx.x % all;
    stripe = blockIdx.x / all, stripes = gridDim.x / all;
    group = slice / slices, first = int64_t(slice % slices) * t.blocks * kK;
    int n = static_cast<int>(threadIdx.x);
    column = n % t.columns, n /= t.columns;
    row = n % t.rows, n /= t.rows;
    image = n % t.images, lane = n / t.images;
    any = lane < t.lanes;
  }
};
struct Corner {
  int64_t n, row, column;
  __device__ __forceinline__ Corner(const Tiling& t, int64_t tile)
      : n(tile / (t.down * t.across) * t.images),
        row(tile / t.across % t.down * t.rows),
        column(tile % t.across * t.columns) {}
};

// filters[i][tap][o] = w of input channel i and output channel o, whose taps lie one after another; zeros beyond.
template <typename T>
struct Filters {
  const T* w;
  int64_t in_step, out_step;
  int taps;
  bool flip;
  __device__ __forceinline__ void stage(acc_t<T>* to, int64_t in0, int in, int64_t out0, int64_t outs,
                                        int width) const {
    for (int e = threadIdx.x; e < width * in * taps; e += blockDim.x) {
      const int tap = e % taps, i = e / taps % in, o = e / taps / in;
      const T* from = w + (in0 + i) * in_step + (out0 + o) * out_step + (flip ? taps - 1 - tap : tap);
      to[(i * taps + tap) * width + o] = o < outs ? static_cast<acc_t<T>>(load(from)) : acc_t<T>(0);
    }
  }
};

// kCount neighbours in shared memory, by packs of kWide.
template <int kWide, int kCount, typename A>
__device__ __forceinline__ void load_line(A (&to)[kCount], const A* from) {
  static_assert(kCount % kWide == 0);
#pragma unroll
  for (int i = 0; i < kCount; i += kWide) {
    const Pack<A, kWide> pack = load_shared<kWide>(from + i);
#pragma unroll
    for (int j = 0; j < kWide; ++j) to[i + j] = pack[j];
  }
}
template <int kCount, typename A>
__device__ __forceinline__ void load_channels(A (&to)[kCount], const A* from) {
  load_line<kCount * sizeof(A) % 16 == 0 ? 16 / sizeof(A) : 8 / sizeof(A)>(to, from);
}

// Distances in a tile: from one tap to the next, and from one of the 2 x 2 results to the next.
struct Steps {
  int r, s, row, column, quad_row, quad_column;
  static Steps of(int64_t r, int64_t s, int64_t dh, int64_t dw, int64_t sh, int64_t sw, int64_t pitch) {
    return {static_cast<int>(r),  static_cast<int>(s),          static_cast<int>(dh * pitch),
            static_cast<int>(dw), static_cast<int>(sh * pitch), static_cast<int>(sw)};
  }
};

template <int kK, typename A>
__device__ __forceinline__ void multiply_add(A (&sum)[4][kK], A a, A b, A c, A d, const A* w) {
  A weight[kK];
  load_channels(weight, w);
#pragma unroll
  for (int k = 0; k < kK; ++k) {
    sum[0][k] += a * weight[k];
    sum[1][k] += b * weight[k];
    sum[2][k] += c * weight[k];
    sum[3][k] += d * weight[k];
  }
}

// sum += the products of `channels` planes from x on with the filters w, `width` channels wide. kS: rows of kS taps
// side by side under results side by side, at an even column; or 0.
template <int kS, int kK, typename A>
__device__ __forceinline__ void add_products(A (&sum)[4][kK], const A* x, const A* w, int channels, int plane,
                                             int width, const Steps& t) {
#pragma unroll 1
  for (int c = 0; c < channels; ++c, x += plane) {
    if constexpr (kS > 0) {
      A top[kS + 1], bottom[kS + 1];
      load_line<2>(top, x);
#pragma unroll 1
      for (int r = 0; r < t.r; ++r) {
        load_line<2>(bottom, x + (r + 1) * t.row);
#pragma unroll
        for (int s = 0; s < kS; ++s, w += width) multiply_add(sum, top[s], top[s + 1], bottom[s], bottom[s + 1], w);
#pragma unroll
        for (int s = 0; s <= kS; ++s) top[s] = bottom[s];
      }
    } else {
#pragma unroll 1
      for (int r = 0; r < t.r; ++r) {
        const A* at = x + r * t.row;
#pragma unroll 1
        for (int s = 0; s < t.s; ++s, at += t.column, w += width)
          multiply_add(sum, at[0], at[t.quad_column], at[t.quad_row], at[t.quad_row + t.quad_column], w);
      }
    }
  }
}

// Calls run.operator()<kK>() for the block of channels that leaves the fewest idle.
template <typename Run>
void with_channels(int64_t channels, Run&& run) {
  if (ceil_div(channels, 8) * 8 <= ceil_div(channels, 6) * 6)
    run.template operator()<8>();
  else
    run.template operator()<6>();
}
template <typename Run>
void with_width(bool slides, int64_t s, Run&& run) {
  if (slides && s == 5)
    run.template operator()<5>();
  else
    run.template operator()<0>();
}
}  // namespace torchext::cuda
