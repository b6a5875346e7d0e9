// The parts of a matrix product in tiles: an operand's tile in shared memory, the pipeline that fills tiles while
// others are multiplied, and two ways to multiply them, by tensor cores or by plain multiply-adds. c is [m, n], the
// depth is k; "rows" are those of a, or of b's transpose.
// conv2d and linear put their own loaders and epilogues around this.
#pragma once
#include "async.cuh"
#include "mma.cuh"

namespace torchext::cuda {
// How an operand lies: 16-byte aligned packs along k, or across it (along its rows), or anyhow.
enum class Order { kAlong, kAcross, kAny };

template <int kM_, int kN_, int kK_, int kWarpsM_, int kWarpsN_, int kStages_>
struct Tiles {
  static constexpr int kM = kM_, kN = kN_, kK = kK_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kStages = kStages_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
};

// kRows x kK elements of one operand in shared memory, in lines along k or across it. Lines are padded so that the
// lanes that read together (rows of ldmatrix, packs, single floats) meet in no bank.
template <typename T, Order kOrder, int kRows, int kK>
struct OperandTile {
  static constexpr bool kLinesAcross = kOrder == Order::kAcross;
  static constexpr int kLines = kLinesAcross ? kK : kRows, kLine = kLinesAcross ? kRows : kK;
  static constexpr int kStride = kLine + (kLinesAcross && sizeof(T) == 4 ? 8 : kPack<T>);
  static constexpr int kSize = kLines * kStride;

  __device__ static constexpr int at(int row, int depth) {
    return kLinesAcross ? depth * kStride + row : row * kStride + depth;
  }

  // Begins to fill `tile` with rows from row0 on and depths from depth0 on of a matrix whose element (row, depth) is
  // p[row * row_stride + depth * depth_stride]; beyond (rows, depths) come zeros.
  template <int kThreads>
  __device__ static void fill(T* tile, const T* p, int64_t row_stride, int64_t depth_stride, int64_t row0,
                              int64_t depth0, int64_t rows, int64_t depths) {
    if constexpr (kOrder == Order::kAny) {
      for (int e = threadIdx.x; e < kRows * kK; e += kThreads) {
        const int64_t row = row0 + e / kK, depth = depth0 + e % kK;
        const bool inside = row < rows && depth < depths;
        T* to = tile + at(e / kK, e % kK);
        const T* from = inside ? p + row * row_stride + depth * depth_stride : p;
        if constexpr (sizeof(T) >= 4)
          copy_async<sizeof(T)>(to, from, inside ? sizeof(T) : 0);
        else
          *to = inside ? load(from) : T(0);
      }
    } else {
      constexpr int kPacks = kLine / kPack<T>;
      static_assert(kLines * kPacks % kThreads == 0);
      const int64_t stride = kLinesAcross ? depth_stride : row_stride;
      const int64_t line0 = kLinesAcross ? depth0 : row0, lines = kLinesAcross ? depths : rows;
      const int64_t first0 = kLinesAcross ? row0 : depth0, length = kLinesAcross ? rows : depths;
#pragma unroll
      for (int i = 0; i < kLines * kPacks / kThreads; ++i) {
        const int e = threadIdx.x + i * kThreads, line = e / kPacks, first = e % kPacks * kPack<T>;
        const int64_t left = line0 + line < lines ? length - first0 - first : 0;
        const int valid = left >= kPack<T> ? 16 : left > 0 ? static_cast<int>(left) * static_cast<int>(sizeof(T)) : 0;
        copy_async<16>(tile + line * kStride + first, valid ? p + (line0 + line) * stride + first0 + first : p, valid);
      }
    }
  }
};

// Adds to `math` the products of depths [depth0, depth1): load(stage, depth) begins to fill one stage, kStages - 1 of
// them ahead of the arithmetic. One barrier a step: it ends both the wait for this stage and the reading of the last.
template <class Math, class Load>
__device__ __forceinline__ void multiply(Math& math, typename Math::Stage* stages, int64_t depth0, int64_t depth1,
                                         Load&& load) {
  using Tiles = typename Math::Tiles;
  const int steps = static_cast<int>(ceil_div(depth1 - depth0, Tiles::kK));
#pragma unroll
  for (int s = 0; s < Tiles::kStages - 1; ++s) {
    if (s < steps) load(stages[s], depth0 + s * Tiles::kK);
    copy_async_commit();
  }
  int reading = 0, filling = Tiles::kStages - 1;
  for (int s = 0; s < steps; ++s) {
    copy_async_wait<Tiles::kStages - 2>();
    __syncthreads();
    if (s + Tiles::kStages - 1 < steps) load(stages[filling], depth0 + int64_t(s + Tiles::kStages - 1) * Tiles::kK);
    copy_async_commit();
    math.multiply(stages[reading]);
    reading = reading + 1 == Tiles::kStages ? 0 : reading + 1;
    filling = filling + 1 == Tiles::kStages ? 0 : filling + 1;
  }
}

template <typename T, class Tiles_, Order kA, Order kB>
struct Operands {
  using Tiles = Tiles_;
  using A = OperandTile<T, kA, Tiles::kM, Tiles::kK>;
  using B = OperandTile<T, kB, Tiles::kN, Tiles::kK>;
  struct alignas(16) Stage {
    T a[A::kSize], b[B::kSize];
  };
};

// bfloat16 and float16 by mma.m16n8k16, float as tf32 by mma.m16n8k8. A warp has a rectangle of fragments.
template <typename T, class Tiles_, Order kA, Order kB>
struct TensorCores : Operands<T, Tiles_, kA, kB> {
  using Tiles = Tiles_;
  using typename Operands<T, Tiles, kA, kB>::A;
  using typename Operands<T, Tiles, kA, kB>::B;
  using typename Operands<T, Tiles, kA, kB>::Stage;
  static constexpr int kWarpM = Tiles::kM / Tiles::kWarpsM, kWarpN = Tiles::kN / Tiles::kWarpsN;
  static constexpr int kDownM = kWarpM / 16, kDownN = kWarpN / 8;
  float sum[kDownM][kDownN][4] = {};

  __device__ static int lane() { return threadIdx.x % 32; }
  __device__ static int row0() { return threadIdx.x / 32 / Tiles::kWarpsN * kWarpM; }
  __device__ static int column0() { return threadIdx.x / 32 % Tiles::kWarpsN * kWarpN; }

  __device__ __forceinline__ void multiply(const Stage& stage) {
    constexpr int kStep = 32 / sizeof(T);
#pragma unroll
    for (int depth = 0; depth < Tiles::kK; depth += kStep) {
      uint32_t a[kDownM][4], b[kDownN][2];
#pragma unroll
      for (int i = 0; i < kDownM; ++i) read_a(a[i], stage.a, row0() + i * 16, depth);
#pragma unroll
      for (int j = 0; j < kDownN; j += 2) read_b(b[j], b[j + 1], stage.b, column0() + j * 8, depth);
#pragma unroll
      for (int i = 0; i < kDownM; ++i)
#pragma unroll
        for (int j = 0; j < kDownN; ++j)
          if constexpr (sizeof(T) == 4)
            mma_m16n8k8_tf32(sum[i][j], a[i], b[j]);
          else
            mma_m16n8k16<T>(sum[i][j], a[i], b[j]);
    }
  }
  // For every part of the tile that this thread holds: f(row, column, pack of kTogether neighbours in that row, what
  // begin(column) gave for these columns).
  static constexpr int kTogether = 2;
  template <class Begin, class F>
  __device__ __forceinline__ void for_each(Begin&& begin, F&& f) const {
#pragma unroll
    for (int j = 0; j < kDownN; ++j) {
      const int column = column0() + j * 8 + lane() % 4 * 2;
      const auto begun = begin(column);
#pragma unroll
      for (int i = 0; i < kDownM; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          f(row0() + i * 16 + lane() / 4 + 8 * half, column,
            Pack<float, 2>{{sum[i][j][2 * half], sum[i][j][2 * half + 1]}}, begun);
    }
  }

 private:
  __device__ static __forceinline__ void read_a(uint32_t (&r)[4], const T* tile, int row, int depth) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        r[i] = to_tf32(tile[A::at(row + lane() / 4 + i % 2 * 8, depth + lane() % 4 + i / 2 * 4)]);
    } else if constexpr (A::kLinesAcross) {
      load_matrix_x4<true>(r, tile + A::at(row + lane() / 8 % 2 * 8, depth + lane() % 8 + lane() / 16 * 8));
    } else {
      load_matrix_x4<false>(r, tile + A::at(row + lane() % 16, depth + lane() / 16 * 8));
    }
  }
  // Two fragments side by side: 16 columns.
  __device__ static __forceinline__ void read_b(uint32_t (&left)[2], uint32_t (&right)[2], const T* tile, int column,
                                                int depth) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        left[i] = to_tf32(tile[B::at(column + lane() / 4, depth + lane() % 4 + i * 4)]);
        right[i] = to_tf32(tile[B::at(column + 8 + lane() / 4, depth + lane() % 4 + i * 4)]);
      }
    } else {
      uint32_t r[4];
      if constexpr (B::kLinesAcross)
        load_matrix_x4<true>(r, tile + B::at(column + lane() / 16 * 8, depth + lane() % 16));
      else
        load_matrix_x4<false>(r, tile + B::at(column + lane() % 8 + lane() / 16 * 8, depth + lane() / 8 % 2 * 8));
      left[0] = r[0], left[1] = r[1], right[0] = r[2], right[1] = r[3];
    }
  }
};

// float and double as they are, by multiply-adds in the order of k. A thread has a kDownM x kDownN part of the tile:
// where the operand's lines run along k its rows lie 16 apart, else in packs 16 packs apart, so that every read is a
// pack and the 8 lanes that read together touch all banks.
template <typename T, class Tiles_, Order kA, Order kB>
struct MultiplyAdds : Operands<T, Tiles_, kA, kB> {
  using Tiles = Tiles_;
  using typename Operands<T, Tiles, kA, kB>::A;
  using typename Operands<T, Tiles, kA, kB>::B;
  using typename Operands<T, Tiles, kA, kB>::Stage;
  static_assert(Tiles::kThreads == 256);
  static constexpr int kDownM = Tiles::kM / 16, kDownN = Tiles::kN / 16, kStep = kPack<T>;
  T sum[kDownM][kDownN] = {};

  __device__ static int thread_n() { return threadIdx.x % 8 + threadIdx.x / 32 % 2 * 8; }  // a warp: 4 x 8 threads
  __device__ static int thread_m() { return threadIdx.x / 8 % 4 + threadIdx.x / 64 * 4; }

  template <class Operand>
  __device__ static constexpr int place(int thread, int i) {
    return Operand::kLinesAcross ? (i / kStep * 16 + thread) * kStep + i % kStep : thread + 16 * i;
  }
  // Registers hold kStep depths of the operand whose packs run along k, and one line of the other.
  __device__ __forceinline__ void multiply(const Stage& stage) {
#pragma unroll 1
    for (int depth = 0; depth < Tiles::kK; depth += kStep)
      if constexpr (B::kLinesAcross) {
        T a[kDownM][kStep];
        if constexpr (!A::kLinesAcross) read<A>(a, stage.a, thread_m(), depth);
#pragma unroll
        for (int d = 0; d < kStep; ++d) {
          T line[kDownM], b[kDownN];
          if constexpr (A::kLinesAcross) read_line<A>(line, stage.a, thread_m(), depth + d);
          read_line<B>(b, stage.b, thread_n(), depth + d);
#pragma unroll
          for (int i = 0; i < kDownM; ++i)
#pragma unroll
            for (int j = 0; j < kDownN; ++j) sum[i][j] += (A::kLinesAcross ? line[i] : a[i][d]) * b[j];
        }
      } else {
        T b[kDownN][kStep];
        read<B>(b, stage.b, thread_n(), depth);
#pragma unroll
        for (int i = 0; i < kDownM; ++i) {
          const auto a = load_shared<kStep>(stage.a + A::at(place<A>(thread_m(), i), depth));
#pragma unroll
          for (int d = 0; d < kStep; ++d)
#pragma unroll
            for (int j = 0; j < kDownN; ++j) sum[i][j] += a[d] * b[j][d];
        }
      }
  }
  static constexpr int kTogether = B::kLinesAcross ? kStep : 1;
  template <class Begin, class F>
  __device__ __forceinline__ void for_each(Begin&& begin, F&& f) const {
#pragma unroll
    for (int j = 0; j < kDownN; j += kTogether) {
      const int column = place<B>(thread_n(), j);
      const auto begun = begin(column);
#pragma unroll
      for (int i = 0; i < kDownM; ++i) {
        Pack<T, kTogether> pack;
#pragma unroll
        for (int e = 0; e < kTogether; ++e) pack[e] = sum[i][j + e];
        f(place<A>(thread_m(), i), column, pack, begun);
      }
    }
  }

 private:
  static_assert(B::kLinesAcross || !A::kLinesAcross, "no product here has a across and b along k");
  // Depths [depth, depth + kStep) of this thread's rows.
  template <class Operand, int kDown>
  __device__ static __forceinline__ void read(T (&x)[kDown][kStep], const T* tile, int thread, int depth) {
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
      const auto pack = load_shared<kStep>(tile + Operand::at(place<Operand>(thread, i), depth));
#pragma unroll
      for (int d = 0; d < kStep; ++d) x[i][d] = pack[d];
    }
  }
  // Depth `depth` of them, where lines run across.
  template <class Operand, int kDown>
  __device__ static __forceinline__ void read_line(T (&x)[kDown], const T* tile, int thread, int depth) {
#pragma unroll
    for (int i = 0; i < kDown; i += kStep) {
      const auto pack = load_shared<kStep>(tile + Operand::at(place<Operand>(thread, i), depth));
#pragma unroll
      for (int e = 0; e < kStep; ++e) x[i + e] = pack[e];
    }
  }
};
}  // namespace torchext::cuda
