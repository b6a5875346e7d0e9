// What the products of linear and of conv2d share around gemm.cuh: the sizes of tiles, which tile is whose block's,
// into how many pieces the depth is cut, what multiplies, and the last step from a sum to an element.
#pragma once
#include <algorithm>

#include "epilogue.cuh"
#include "gemm.cuh"

namespace torchext::cuda {
struct TilePlace {
  int64_t row0, column0;
};
// Down 8 rows of tiles, then to the next column: blocks that run together share what they read.
template <class Tiles>
__device__ __forceinline__ TilePlace tile_at(int64_t block, int64_t m, int64_t n) {
  const int64_t rows = ceil_div(m, Tiles::kM), columns = ceil_div(n, Tiles::kN);
  const int64_t group = block / (8 * columns), down = rows - group * 8 < 8 ? rows - group * 8 : 8;
  return {(group * 8 + block % (8 * columns) % down) * Tiles::kM, block % (8 * columns) / down * Tiles::kN};
}

// The epilogue, then rounding.
template <typename T, int N>
__device__ __forceinline__ Pack<T, N> finished(const Pack<acc_t<T>, N>& sum, Epilogue epilogue) {
  Pack<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result[i] = static_cast<T>(apply(epilogue, sum[i]));
  return result;
}

// Stores what lies inside the row, as one pack where all rows are aligned to it.
template <typename T, int N>
__device__ __forceinline__ void put(T* c, const Pack<T, N>& x, int64_t row, int64_t column, int64_t n) {
  T* to = c + row * n + column;
  if (n % N == 0) {
    store(to, x);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (column + i < n) store(to + i, x[i]);
  }
}

// Which tiles, and into how many pieces of which depth k is cut.
struct ProductPlan {
  bool large;
  int64_t splits, depth;
};
// For `batch` products of m x n sums of k terms.
template <class Small, class Large>
ProductPlan plan_product(int64_t m, int64_t n, int64_t k, int64_t batch = 1) {
  const auto tiles = [&](int64_t down, int64_t across) { return batch * ceil_div(m, down) * ceil_div(n, across); };
  const int64_t wanted = processors();
  const bool half_empty =
      ceil_div(m, Small::kM) * Small::kM < Large::kM || ceil_div(n, Small::kN) * Small::kN < Large::kN;
  if (!half_empty && tiles(Large::kM, Large::kN) >= wanted) return {true, 1, k};
  constexpr int64_t kFewest = 4;  // steps that a piece must have to be worth its trip through memory
  const int64_t steps = ceil_div(k, Small::kK);
  const int64_t splits =
      std::max<int64_t>(1, std::min(wanted / std::max<int64_t>(1, tiles(Small::kM, Small::kN)), steps / kFewest));
  const int64_t depth = std::max<int64_t>(1, ceil_div(steps, splits)) * Small::kK;
  return {false, std::max<int64_t>(1, ceil_div(k, depth)), depth};
}

// Calls f.operator()<Math>() with what multiplies elements of type T; float as it is, or rounded to TF32.
template <typename T, typename F>
void with_math([[maybe_unused]] bool tf32, F&& f) {
  if constexpr (sizeof(T) == 2) {
    f.template operator()<TensorCores>();
  } else {
    if constexpr (sizeof(T) == 4)
      if (tf32) return f.template operator()<TensorCores>();
    f.template operator()<MultiplyAdds>();
  }
}
}  // namespace torchext::cuda
