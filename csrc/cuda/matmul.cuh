// c = a b + bias, then the epilogue: one tile of c a block, on gemm.cuh.
//
// Reads a once per column of tiles and b once per row of tiles (neighbouring blocks share them in the cache), writes c
// once. Bound by arithmetic from k of a few hundred on. Where c has too few tiles to fill the device, k is split: each
// piece writes its accumulators to scratch, and a second kernel adds the pieces in order.
#pragma once
#include "../linear_relu.h"
#include "product.cuh"

namespace torchext::cuda {
template <typename T>
struct MatmulArguments {
  T* c;
  const T *a, *b, *bias;
  acc_t<T>* pieces;  // [splits, m, n]; null: k is whole
  int64_t depth;     // of one piece
  Epilogue epilogue;
  MatmulShape s;
};

// bias[column, column + N), with zeros beyond n and where there is none.
template <int N, typename T>
__device__ __forceinline__ Pack<acc_t<T>, N> bias_at(const T* bias, int64_t column, int64_t n) {
  Pack<acc_t<T>, N> pack{};
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (bias && column + i < n) pack[i] = static_cast<acc_t<T>>(load(bias + column + i));
  return pack;
}

template <class Math, typename T>
__global__ void __launch_bounds__(Math::Tiles::kThreads, 2) matmul_kernel(MatmulArguments<T> g) {
  using Tiles = typename Math::Tiles;
  const TilePlace tile = tile_at<Tiles>(blockIdx.x, g.s.m, g.s.n);
  const int64_t row0 = tile.row0, column0 = tile.column0;
  const int64_t depth0 = blockIdx.z * g.depth, depth1 = depth0 + g.depth < g.s.k ? depth0 + g.depth : g.s.k;

  Math math;
  multiply(math, dynamic_shared<typename Math::Stage>(), depth0, depth1,
           [&](typename Math::Stage& stage, int64_t depth) {
             Math::A::template fill<Tiles::kThreads>(stage.a, g.a, g.s.a_row, g.s.a_col, row0, depth, g.s.m, depth1);
             Math::B::template fill<Tiles::kThreads>(stage.b, g.b, g.s.b_col, g.s.b_row, column0, depth, g.s.n, depth1);
           });
  constexpr int N = Math::kTogether;
  math.for_each([&](int column) { return bias_at<N>(g.pieces ? nullptr : g.bias, column0 + column, g.s.n); },
                [&](int row, int column, Pack<acc_t<T>, N> sum, const Pack<acc_t<T>, N>& bias) {
                  if (row0 + row >= g.s.m || column0 + column >= g.s.n) return;
                  if (g.pieces) return put(g.pieces, sum, blockIdx.z * g.s.m + row0 + row, column0 + column, g.s.n);
#pragma unroll
                  for (int i = 0; i < N; ++i) sum[i] += bias[i];
                  put(g.c, finished<T>(sum, g.epilogue), row0 + row, column0 + column, g.s.n);
                });
}

template <typename T>
__global__ void __launch_bounds__(256) add_pieces_kernel(MatmulArguments<T> g, int splits) {
  const int64_t size = g.s.m * g.s.n, at = blockIdx.x * int64_t(256) + threadIdx.x;
  if (at >= size) return;
  const int64_t row = at / g.s.n, column = at % g.s.n;
  acc_t<T> sum = 0;
  for (int i = 0; i < splits; ++i) sum += load(g.pieces + i * size + at);
  sum += bias_at<1>(g.bias, column, g.s.n)[0];
  put(g.c, finished<T>(Pack<acc_t<T>, 1>{{sum}}, g.epilogue), row, column, g.s.n);
}

template <class Math, typename T>
void launch_matmul(const MatmulArguments<T>& g, int64_t splits, void* stream) {
  using Tiles = typename Math::Tiles;
  const int64_t tiles = ceil_div(g.s.m, Tiles::kM) * ceil_div(g.s.n, Tiles::kN);
  launch<matmul_kernel<Math, T>>({blocks(tiles, 1), 1, static_cast<unsigned>(splits)}, Tiles::kThreads,
                                 Tiles::kStages * sizeof(typename Math::Stage), stream, g);
}

// Math by the order of the operands; products of dense matrices meet the first three.
template <template <typename, class, Order, Order> class Math, class Tiles, typename T>
void launch_matmul_by_order(const MatmulArguments<T>& g, int64_t splits, void* stream) {
  const auto order = [](const T* p, int64_t row, int64_t depth) {
    const auto packs = [&](int64_t one, int64_t stride) { return one == 1 && stride % kPack<T> == 0 && aligned(p); };
    return packs(depth, row) ? Order::kAlong : packs(row, depth) ? Order::kAcross : Order::kAny;
  };
  const Order a = order(g.a, g.s.a_row, g.s.a_col), b = order(g.b, g.s.b_col, g.s.b_row);
  if (a == Order::kAlong && b == Order::kAlong)
    launch_matmul<Math<T, Tiles, Order::kAlong, Order::kAlong>>(g, splits, stream);
  else if (a == Order::kAlong && b == Order::kAcross)
    launch_matmul<Math<T, Tiles, Order::kAlong, Order::kAcross>>(g, splits, stream);
  else if (a == Order::kAcross && b == Order::kAcross)
    launch_matmul<Math<T, Tiles, Order::kAcross, Order::kAcross>>(g, splits, stream);
  else
    launch_matmul<Math<T, Tiles, Order::kAny, Order::kAny>>(g, splits, stream);
}
}  // namespace torchext::cuda
