// Operands of conv2d's products, gathered where they lie: element (row, depth) of an im2col matrix is at the sum of a
// point that the row gives (a pixel) and one that the depth gives (a tap of the kernel), and 0 where that sum is
// outside the image. Nothing of the matrix is written to memory but the tile in shared memory.
#pragma once
#include "divide.cuh"
#include "gemm.cuh"

namespace torchext::cuda {
// An element's offset in a tensor, and where in its image that is. Points add up.
struct alignas(16) Point {
  int64_t offset;
  int h, w;
};
constexpr int kOutside = -(1 << 30);  // an h that no other point brings back into the image

// A digit of a number, least significant first: how many values it takes, and what each step of it adds.
struct Digit {
  int64_t size = 1;
  Point step = {0, 0, 0};
};

// The points of 0, 1, .. count() - 1, each split into three digits; beyond them, outside.
class Walk {
 public:
  Walk(Point start, Digit fast, Digit middle = {}, Digit slow = {})
      : start_(start),
        digits_{fast, middle, slow},
        fast_(std::max<int64_t>(1, fast.size)),
        middle_(std::max<int64_t>(1, middle.size)),
        count_(fast.size * middle.size * slow.size) {}

  __host__ __device__ int64_t count() const { return count_; }
  __device__ __forceinline__ Point operator()(int64_t i) const {
    if (i >= count_) return {-1, kOutside, kOutside};
    const int64_t a = fast_.split(i), b = middle_.split(i);
    const Point &x = digits_[0].step, &y = digits_[1].step, &z = digits_[2].step;
    const int p = static_cast<int>(a), q = static_cast<int>(b), r = static_cast<int>(i);
    return {start_.offset + a * x.offset + b * y.offset + i * z.offset, start_.h + p * x.h + q * y.h + r * z.h,
            start_.w + p * x.w + q * y.w + r * z.w};
  }

  // Whether every `wide` numbers from a multiple on are neighbours at one place of the image, at a multiple of `wide`.
  bool in_packs(int64_t wide) const {
    const Digit& fast = digits_[0];
    return fast.size % wide == 0 && fast.step.offset == 1 && fast.step.h == 0 && fast.step.w == 0 &&
           start_.offset % wide == 0 && multiples(wide, 1);
  }
  bool multiples(int64_t wide, int first = 0) const {
    for (int i = first; i < 3; ++i)
      if (digits_[i].size > 1 && digits_[i].step.offset % wide != 0) return false;
    return start_.offset % wide == 0;
  }

 private:
  Point start_;
  Digit digits_[3];
  Divisor fast_, middle_;
  int64_t count_;
};

// A matrix for each group; the groups' lie `group` elements apart.
template <typename T>
struct Gathered {
  const T* p;
  int64_t group;
  Walk rows, depths;
  int height = 1, width = 1;  // of the image
  Order order;                // how its tiles lie in shared memory: along k, or across

  // Whether the tiles' lines can be copied by 16 bytes.
  bool in_packs() const {
    const Walk &line = order == Order::kAlong ? depths : rows, &other = order == Order::kAlong ? rows : depths;
    return line.in_packs(kPack<T>) && other.multiples(kPack<T>) && group % kPack<T> == 0 && aligned(p);
  }
};

// The points of a tile's rows, and of the depths of kSlots loads, in shared memory: found once for a block.
template <int kRows, int kK, int kSlots>
struct TilePoints {
  Point rows[kRows], depths[kSlots][kK];
};

// Begins to fill a tile of `g`, p being its group's matrix. Neighbouring threads copy along a line; a thread's chunks
// lie at one place of their lines.
template <class Tile, int kThreads, int kWide, typename T>
__device__ __forceinline__ void gather(T* tile, const Gathered<T>& g, const T* p, const Point* rows,
                                       const Point* depths) {
  constexpr int kChunks = Tile::kLine / kWide, kAtOnce = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && Tile::kLines % kAtOnce == 0);
  const int line0 = threadIdx.x / kChunks, first = threadIdx.x % kChunks * kWide;
  const Point along = (Tile::kLinesAcross ? rows : depths)[first];
#pragma unroll
  for (int i = 0; i < Tile::kLines; i += kAtOnce) {
    const int line = line0 + i;
    const Point across = (Tile::kLinesAcross ? depths : rows)[line];
    const bool inside = static_cast<unsigned>(along.h + across.h) < static_cast<unsigned>(g.height) &&
                        static_cast<unsigned>(along.w + across.w) < static_cast<unsigned>(g.width);
    T* to = tile + line * Tile::kStride + first;
    const T* from = inside ? p + along.offset + across.offset : p;
    if constexpr (kWide * sizeof(T) >= 4)
      copy_async<kWide * sizeof(T)>(to, from, inside ? kWide * sizeof(T) : 0);
    else
      *to = inside ? load(from) : T(0);
  }
}
}  // namespace torchext::cuda
