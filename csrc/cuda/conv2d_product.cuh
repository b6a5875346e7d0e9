// c = a b + bias, then the epilogue, over gathered operands: the one kernel behind conv2d, its input and its weight gradient.
// A block has one tile of one group's c.
//
// Reads a once per column of tiles and b once per row of tiles, an image's element once for each tap that meets it
// (neighbouring taps and blocks share it in the cache); writes c once. Bound by arithmetic from some hundred terms a
// sum on. Where there are too few tiles to fill the device, k is split: each piece writes its accumulators to scratch,
// and a second kernel adds the pieces in order.
#pragma once
#include "conv2d_gather.cuh"
#include "product.cuh"

namespace torchext::cuda {
template <typename T>
struct ConvProduct {
  Gathered<T> a, b;  // rows of b are c's columns
  T* c;
  int64_t group;  // how far the groups' c lie apart
  Walk rows, columns;
  int64_t groups;
  const T* bias = nullptr;
  Epilogue epilogue = Epilogue::kNone;
  bool channels_down = false;  // whether c's rows are the channels, or its columns
  acc_t<T>* pieces = nullptr;  // [splits, groups, m, n]; null: k is whole
  int64_t depth = 0;           // of one piece
  bool packs[3] = {};          // whether 1, 2, 4 neighbours of a row of c can be stored at once

  __host__ __device__ int64_t m() const { return rows.count(); }
  __host__ __device__ int64_t n() const { return columns.count(); }
  __host__ __device__ int64_t k() const { return a.depths.count(); }
  // The bias of a row, 0 where it belongs to the columns; and the other way round.
  __device__ __forceinline__ acc_t<T> bias_at(bool row, int64_t group, int64_t channel) const {
    const int64_t channels = row ? m() : n();
    if (!bias || row != channels_down || channel >= channels) return 0;
    return static_cast<acc_t<T>>(load(bias + group * channels + channel));
  }
};

// Where the rows and columns of a block's tile of c are written, -1 for those that are not, and their bias.
template <class Tiles, typename A>
struct ResultLines {
  int64_t rows[Tiles::kM], columns[Tiles::kN];
  A row_bias[Tiles::kM], column_bias[Tiles::kN];

  template <typename T>
  __device__ __forceinline__ void find(const ConvProduct<T>& g, int64_t group, int64_t row0, int64_t column0) {
    for (int i = threadIdx.x; i < Tiles::kM; i += Tiles::kThreads) {
      rows[i] = g.rows(row0 + i).offset;
      row_bias[i] = g.bias_at(true, group, row0 + i);
    }
    for (int i = threadIdx.x; i < Tiles::kN; i += Tiles::kThreads) {
      columns[i] = g.columns(column0 + i).offset;
      column_bias[i] = g.bias_at(false, group, column0 + i);
    }
  }
};

template <class Math, typename A>
struct ProductShared {
  using Tiles = typename Math::Tiles;
  // A load finds the points for the kAhead-th after it, so that a barrier lies between; twice as many slots, so that it
  // overwrites none that is still read.
  static constexpr int kAhead = Tiles::kStages - 1, kSlots = 2 * kAhead;
  union {
    typename Math::Stage stages[Tiles::kStages];
    ResultLines<Tiles, A> lines;  // once the last stage is read
  };
  TilePoints<Tiles::kM, Tiles::kK, kSlots> a;
  TilePoints<Tiles::kN, Tiles::kK, kSlots> b;

  template <typename T>
  __device__ __forceinline__ void find_rows(const ConvProduct<T>& g, int64_t row0, int64_t column0) {
    for (int i = threadIdx.x; i < Tiles::kM; i += Tiles::kThreads) a.rows[i] = g.a.rows(row0 + i);
    for (int i = threadIdx.x; i < Tiles::kN; i += Tiles::kThreads) b.rows[i] = g.b.rows(column0 + i);
  }
  template <typename T>
  __device__ __forceinline__ void find_depths(const ConvProduct<T>& g, int slot, int64_t depth) {
    static_assert(Tiles::kThreads >= 2 * Tiles::kK);
    const int i = threadIdx.x % Tiles::kK;
    if (threadIdx.x < Tiles::kK)
      a.depths[slot][i] = g.a.depths(depth + i);
    else if (threadIdx.x < 2 * Tiles::kK)
      b.depths[slot][i] = g.b.depths(depth + i);
  }
};

template <class Math, int kWideA, int kWideB, typename T>
__global__ void __launch_bounds__(Math::Tiles::kThreads, 2) conv2d_kernel(const __grid_constant__ ConvProduct<T> g) {
  using Tiles = typename Math::Tiles;
  const int64_t m = g.m(), n = g.n(), tiles = ceil_div(m, Tiles::kM) * ceil_div(n, Tiles::kN);
  const int64_t group = blockIdx.x / tiles;
  const TilePlace tile = tile_at<Tiles>(blockIdx.x % tiles, m, n);
  const int64_t row0 = tile.row0, column0 = tile.column0;
  const int64_t depth0 = blockIdx.z * g.depth, depth1 = depth0 + g.depth < g.k() ? depth0 + g.depth : g.k();
  const T *a = g.a.p + group * g.a.group, *b = g.b.p + group * g.b.group;

  using Shared = ProductShared<Math, acc_t<T>>;
  auto& memory = *dynamic_shared<Shared>();
  memory.find_rows(g, row0, column0);
  for (int i = 0; i < Shared::kAhead; ++i) memory.find_depths(g, i, depth0 + i * Tiles::kK);
  __syncthreads();
  Math math;
  int slot = 0;
  multiply(math, memory.stages, depth0, depth1, [&](typename Math::Stage& stage, int64_t depth) {
    gather<typename Math::A, Tiles::kThreads, kWideA>(stage.a, g.a, a, memory.a.rows, memory.a.depths[slot]);
    gather<typename Math::B, Tiles::kThreads, kWideB>(stage.b, g.b, b, memory.b.rows, memory.b.depths[slot]);
    const int free = slot < Shared::kAhead ? slot + Shared::kAhead : slot - Shared::kAhead;
    memory.find_depths(g, free, depth + Shared::kAhead * Tiles::kK);
    slot = slot + 1 == Shared::kSlots ? 0 : slot + 1;
  });

  __syncthreads();  // the last stages may still be read
  memory.lines.find(g, group, row0, column0);
  __syncthreads();
  const auto& lines = memory.lines;
  constexpr int N = Math::kTogether;
  const bool pack = g.packs[N / 2];
  math.for_each([](int) { return 0; },
                [&](int row, int column, Pack<acc_t<T>, N> sum, int) {
                  if (lines.rows[row] < 0 || lines.columns[column] < 0) return;
                  if (g.pieces) {
                    const int64_t piece = blockIdx.z * g.groups + group;
                    return put(g.pieces, sum, piece * m + row0 + row, column0 + column, n);
                  }
#pragma unroll
                  for (int i = 0; i < N; ++i) sum[i] += lines.row_bias[row] + lines.column_bias[column + i];
                  T* to = g.c + group * g.group + lines.rows[row];
                  const Pack<T, N> result = finished<T>(sum, g.epilogue);
                  if (pack) return store(to + lines.columns[column], result);
#pragma unroll
                  for (int i = 0; i < N; ++i)
                    if (lines.columns[column + i] >= 0) store(to + lines.columns[column + i], result[i]);
                });
}

// Reads the pieces and writes c once; bound by bandwidth. A thread has an element.
template <typename T>
__global__ void __launch_bounds__(256) conv2d_pieces_kernel(const __grid_constant__ ConvProduct<T> g, int splits) {
  const int64_t m = g.m(), n = g.n(), size = g.groups * m * n, at = blockIdx.x * int64_t(256) + threadIdx.x;
  if (at >= size) return;
  const int64_t column = at % n, row = at / n % m, group = at / n / m;
  acc_t<T> sum = 0;
  for (int i = 0; i < splits; ++i) sum += load(g.pieces + i * size + at);
  sum += g.bias_at(true, group, row) + g.bias_at(false, group, column);
  T* to = g.c + group * g.group + g.rows(row).offset + g.columns(column).offset;
  store(to, finished<T>(Pack<acc_t<T>, 1>{{sum}}, g.epilogue));
}

template <template <typename, class, Order, Order> class Math_, class Tiles, typename T>
struct ConvLauncher {
  const ConvProduct<T>& g;
  int64_t splits;
  void* stream;

  // By the order of the operands, and whether they come in packs.
  void operator()() const {
    constexpr int kWide = kPack<T>;
    const bool a = g.a.in_packs(), b = g.b.in_packs();
    if (g.a.order == Order::kAcross)
      a&& b ? run<Order::kAcross, Order::kAcross, kWide, kWide>() : run<Order::kAcross, Order::kAcross, 1, 1>();
    else if (g.b.order == Order::kAlong)
      a&& b ? run<Order::kAlong, Order::kAlong, kWide, kWide>() : run<Order::kAlong, Order::kAlong, 1, 1>();
    else if (a)
      b ? run<Order::kAlong, Order::kAcross, kWide, kWide>() : run<Order::kAlong, Order::kAcross, kWide, 1>();
    else
      run<Order::kAlong, Order::kAcross, 1, 1>();
  }

 private:
  template <Order kA, Order kB, int kWideA, int kWideB>
  void run() const {
    using Math = Math_<T, Tiles, kA, kB>;
    const int64_t tiles = ceil_div(g.m(), Tiles::kM) * ceil_div(g.n(), Tiles::kN);
    launch<conv2d_kernel<Math, kWideA, kWideB, T>>({blocks(g.groups * tiles, 1), 1, static_cast<unsigned>(splits)},
                                                   Tiles::kThreads, sizeof(ProductShared<Math, acc_t<T>>), stream, g);
  }
};

template <class Small, class Large, typename T>
ProductPlan plan_conv(const ConvProduct<T>& g) {
  return plan_product<Small, Large>(g.m(), g.n(), g.k(), g.groups);
}

template <class Small, class Large, typename T>
int64_t conv_pieces_size(const ConvProduct<T>& g) {
  const int64_t splits = plan_conv<Small, Large>(g).splits;
  return splits > 1 ? splits * g.groups * g.m() * g.n() : 0;
}

template <class Small, class Large, typename T>
void run_conv(ConvProduct<T> g, bool tf32, acc_t<T>* pieces, void* stream) {
  if (g.groups * g.m() * g.n() == 0) return;
  const ProductPlan plan = plan_conv<Small, Large>(g);
  g.depth = plan.depth;
  if (plan.splits > 1) g.pieces = pieces;
  for (int i = 0; i < 3; ++i) {
    const int wide = 1 << i;
    g.packs[i] =
        g.columns.in_packs(wide) && g.rows.multiples(wide) && g.group % wide == 0 && aligned(g.c, wide * sizeof(T));
  }
  with_math<T>(tf32, [&]<template <typename, class, Order, Order> class Math>() {
    if (plan.large)
      ConvLauncher<Math, Large, T>{g, plan.splits, stream}();
    else
      ConvLauncher<Math, Small, T>{g, plan.splits, stream}();
  });
  if (plan.splits > 1)
    launch<conv2d_pieces_kernel<T>>(blocks(g.groups * g.m() * g.n(), 256), 256, 0, stream, g,
                                    static_cast<int>(plan.splits));
}
}  // namespace torchext::cuda
