// Tiles of images in shared memory, as the direct kernels of conv2d_relu_max_pool2d stage them: every element once, as
// an accumulator, zeros where the image ends. Whole images come by 16 bytes.
#pragma once
#include "divide.cuh"
#include "pack.cuh"

namespace torchext::cuda {
constexpr int kDirectThreads = 256;
template <typename T>
constexpr int kDirectBlocks = sizeof(T) == 8 ? 1 : 2;  // a processor, by their registers
constexpr int64_t kDirectShared = 96 << 10;            // what a block of any target from sm_80 on may have

// images x channels x rows x columns, counted in the order of the memory format.
struct Box {
  Divisor inner, middle, outer;
  int image;  // elements of one
  bool last;
  struct Place {
    int image, channel, row, column;
  };

  Box(int64_t channels, int64_t rows, int64_t columns, bool last)
      : inner(last ? channels : columns),
        middle(last ? columns : rows),
        outer(last ? rows : channels),
        image(static_cast<int>(channels * rows * columns)),
        last(last) {}
  __device__ __forceinline__ Place operator()(int n) const {
    const int a = inner.split(n), b = middle.split(n), c = outer.split(n);
    return last ? Place{n, a, c, b} : Place{n, c, b, a};
  }
};

// Where a tile's elements lie in shared memory.
struct TileShape {
  int channels, rows, columns, pitch, plane, image;

  // Even lines, so that pairs of columns are one access.
  static TileShape of_pairs(int64_t channels, int64_t rows, int64_t columns) {
    return with_pitch(channels, rows, columns, columns + columns % 2);
  }
  static TileShape with_pitch(int64_t channels, int64_t rows, int64_t columns, int64_t pitch, int64_t more = 0) {
    const int64_t plane = rows * pitch + more;
    return {static_cast<int>(channels), static_cast<int>(rows),  static_cast<int>(columns),
            static_cast<int>(pitch),    static_cast<int>(plane), static_cast<int>(channels * plane)};
  }
  __device__ __forceinline__ int at(const Box::Place& p) const {
    return p.image * image + p.channel * plane + p.row * pitch + p.column;
  }
};

// The images that tiles are cut from: [n, channels, h, w] in either memory format.
template <typename T>
struct Images {
  const T* x;
  int64_t n, channels, h, w;
  Box tile, whole;  // `whole`: of the channels that one block stages, where tiles have whole images
  bool packs;       // they do, in packs

  Images(const T* x, int64_t n, int64_t channels, int64_t h, int64_t w, bool last, const TileShape& t,
         int64_t block_channels, bool all)
      : Images(x, n, channels, h, w, last, t, block_channels,
               all && t.channels == block_channels && (!last || block_channels == channels) &&
                   block_channels * h * w % kPack<T> == 0 && h * w <= 2 * t.plane && aligned(x),
               nullptr) {}

 private:
  Images(const T* x, int64_t n, int64_t channels, int64_t h, int64_t w, bool last, const TileShape& t,
         int64_t block_channels, bool packs, std::nullptr_t)
      : x(x),
        n(n),
        channels(channels),
        h(h),
        w(w),
        tile(t.channels, t.rows, t.columns, last),
        whole(block_channels, packs ? h : 1, packs ? w : 1, last),
        packs(packs) {}
};

// The tile whose corner is (c0, h0, w0), of `count` images from n0 on and of channels below c1. Whole images write no
// border: who stages them has set the tile to zero once.
template <typename T>
__device__ __forceinline__ void stage(acc_t<T>* tile, const TileShape& t, const Images<T>& from, int64_t n0, int count,
                                      int64_t c0, int64_t c1, int64_t h0, int64_t w0) {
  using A = acc_t<T>;
  const bool last = from.tile.last;
  if (from.packs) {
    constexpr int N = kPack<T>;
    const int right = static_cast<int>(from.w), bottom = static_cast<int>(from.h);
    for (int e = threadIdx.x * N; e < count * from.whole.image; e += blockDim.x * N) {
      Box::Place at = from.whole(e);
      const int64_t begin = ((n0 + at.image) * from.channels + c0) * from.h * from.w;
      const Pack<T, N> v = load_once<N>(from.x + begin + (e - at.image * from.whole.image));
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const Box::Place to{at.image, at.channel, static_cast<int>(at.row - h0), static_cast<int>(at.column - w0)};
        if (to.row < t.rows && to.column < t.columns) tile[t.at(to)] = static_cast<A>(v[i]);
        if (last && ++at.channel < t.channels) continue;
        if (last) at.channel = 0;
        if (++at.column < right) continue;
        at.column = 0;
        if (++at.row < bottom) continue;
        at.row = 0, ++at.channel;
      }
    }
    return;
  }
  for (int e = threadIdx.x; e < count * from.tile.image; e += blockDim.x) {
    const Box::Place at = from.tile(e);
    const int64_t n = n0 + at.image, c = c0 + at.channel, h = h0 + at.row, w = w0 + at.column;
    A v = 0;
    if (c < c1 && h >= 0 && h < from.h && w >= 0 && w < from.w)
      v = static_cast<A>(load(from.x + (last ? ((n * from.h + h) * from.w + w) * from.channels + c
                                             : ((n * from.channels + c) * from.h + h) * from.w + w)));
    tile[t.at(at)] = v;
  }
}

template <typename A>
__device__ __forceinline__ void set_zero(A* p, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) p[i] = 0;
}
}  // namespace torchext::cuda
