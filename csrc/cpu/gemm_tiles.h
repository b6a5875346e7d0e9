// The registers' part of a product: tiles of sums, to which rows of a, broadcast, times a panel of b are added.
#ifndef TORCHEXT_GEMM_TILES
#define TORCHEXT_GEMM_TILES
#include "gemm_pack.h"

namespace torchext::cpu::ISA {
template <typename A>
inline constexpr int64_t kDepth = (25 << 10) / (kNR<A> * static_cast<int64_t>(sizeof(A)));  // a panel, in L1
template <int kVectors>
inline constexpr int64_t kTileRows =
    (ISA_LEVEL == 512 ? 24 : 12) * 2 / (kVectors == 1 ? 3 : 2 * kVectors);  // accumulators: of 32 or 16 registers

// Where a panel's tiles go after the last step: rows of c, `width` columns of them; else, c null, back to the sums.
template <typename T>
struct Target {
  T* c;
  int64_t row;
  const T* bias;
  Epilogue epilogue;
  int64_t width;
  Target below(int64_t rows) const { return {c ? c + rows * row : nullptr, row, bias, epilogue, width}; }
};

// (add ? sums : 0) + a panel over k steps, to sums or to c; rows of the panel and of the sums are kVectors wide. What
// is added comes last: sums of several blocks of k are rounded less than one long sum.
template <int kRows, int kVectors, typename T>
inline void tile(acc_t<T>* sums, Target<T> to, const acc_t<T>* a, int64_t a_row, int64_t a_column,
                 const acc_t<T>* panel, int64_t k, bool add) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>, kWidth = kVectors * L;
  Vec<A> acc[kRows][kVectors] = {};
  const A* rows[(kRows + 2) / 3];  // three rows to a pointer: the processor multiplies by 1 and 2 as it addresses
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i += 3) rows[i / 3] = a + i * a_row;
  for (int64_t p = 0; p < k; ++p, panel += kWidth) {
    Vec<A> b[kVectors];
#pragma GCC unroll 3
    for (int h = 0; h < kVectors; ++h) b[h] = load(panel + h * L);
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) {
      const auto x = splat<Vec<A>>(rows[i / 3][i % 3 * a_row]);
      if (i % 3 == 2 || i == kRows - 1) rows[i / 3] += a_column;
#pragma GCC unroll 3
      for (int h = 0; h < kVectors; ++h) acc[i][h] += x * b[h];
    }
  }
#pragma GCC unroll 3
  for (int h = 0; h < kVectors; ++h) {
    const int64_t width = to.width - h * L;
    const Vec<A> bias = !to.bias ? Vec<A>{} : width >= L ? load(to.bias + h * L) : load(to.bias + h * L, width);
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i) {
      if (add) acc[i][h] += load(sums + i * kWidth + h * L);
      if (!to.c)
        store<A>(sums + i * kWidth + h * L, acc[i][h]);
      else if (width >= L)
        store(to.c + i * to.row + h * L, apply(to.epilogue, acc[i][h] + bias));
      else
        store(to.c + i * to.row + h * L, apply(to.epilogue, acc[i][h] + bias), width);
    }
  }
}

// Calls f.operator()<rows>() for 1 <= rows <= kMost.
template <int kMost, typename F>
inline void with_rows(int64_t rows, F&& f) {
  if constexpr (kMost > 1)
    if (rows < kMost) return with_rows<kMost - 1>(rows, f);
  f.template operator()<kMost>();
}

// The tiles of one panel, top to bottom.
template <int kVectors, typename T>
void tiles(acc_t<T>* sums, Target<T> to, const acc_t<T>* a, int64_t a_row, int64_t a_column, const acc_t<T>* panel,
           int64_t m, int64_t k, bool add) {
  constexpr int64_t kMost = kTileRows<kVectors>, kWidth = kVectors * kLanes<acc_t<T>>;
  for (int64_t i = 0; i < m;) {  // the last two share what is left: a tile of few rows waits for its own results
    const int64_t left = m - i, rows = left >= 2 * kMost || left <= kMost ? std::min(left, kMost) : (left + 1) / 2;
    with_rows<kMost>(rows, [&]<int kRows>() {
      tile<kRows, kVectors, T>(sums + i * kWidth, to.below(i), a + i * a_row, a_row, a_column, panel, k, add);
    });
    i += rows;
  }
}
}  // namespace torchext::cpu::ISA
#endif
