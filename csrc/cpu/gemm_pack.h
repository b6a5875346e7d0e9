// What surrounds gemm.h's tiles: operands into the order the tiles read, sums out of the order they write. Every
// element is read once and written once, by whole vectors, converted to or from acc_t<T> on the way.
#ifndef TORCHEXT_GEMM_PACK
#define TORCHEXT_GEMM_PACK
#include "epilogue.h"
#include "transpose.h"

namespace torchext::cpu::ISA {
template <typename A>
inline constexpr int64_t kNR = 3 * kLanes<A>;

template <typename A>
inline int64_t whole_vectors(int64_t n) {
  return (n + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// to[i * to_row + j] = from[i * row + j * column] for i < m and j < n, and 0 up to a whole vector of j;
// row or column is 1.
template <typename T>
void pack(acc_t<T>* to, int64_t to_row, const T* from, int64_t row, int64_t column, int64_t m, int64_t n) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  if (column == 1) {
    const int64_t whole = n / L * L;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < whole; j += L) store<A>(to + i * to_row + j, load(from + i * row + j));
      if (whole < n) store<A>(to + i * to_row + whole, load(from + i * row + whole, n - whole));
    }
    return;
  }
  for (int64_t j0 = 0; j0 < n; j0 += L)
    for (int64_t i0 = 0; i0 < m; i0 += L) {
      const int64_t width = std::min<int64_t>(L, n - j0), height = std::min<int64_t>(L, m - i0);
      const T* at = from + i0 + j0 * column;
      A* out = to + i0 * to_row + j0;
      Vec<A> block[L];
      if (width == L && height == L) {
        for (int j = 0; j < L; ++j) block[j] = load(at + j * column);
        transpose(block);
        for (int i = 0; i < L; ++i) store<A>(out + i * to_row, block[i]);
      } else {
        for (int j = 0; j < L; ++j) block[j] = j < width ? load(at + j * column, height) : Vec<A>{};
        transpose(block);
        for (int i = 0; i < height; ++i) store<A>(out + i * to_row, block[i]);
      }
    }
}

// c[j * c_row + i] = sums[i][j] + bias[i], then the epilogue, for i < m, j < n; the sums' rows are whole vectors.
template <typename T>
void finish_transposed(T* c, int64_t c_row, const acc_t<T>* sums, const T* bias, Epilogue epilogue, int64_t m,
                       int64_t n) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  const int64_t row = whole_vectors<A>(n);
  for (int64_t i = 0; i < m; i += L) {
    const int64_t height = std::min<int64_t>(L, m - i);
    const Vec<A> b = bias ? load(bias + i, height) : Vec<A>{};
    for (int64_t j0 = 0; j0 < n; j0 += L) {
      Vec<A> block[L];
      for (int r = 0; r < L; ++r) block[r] = r < height ? load(sums + (i + r) * row + j0) : Vec<A>{};
      transpose(block);
      const int64_t width = std::min<int64_t>(L, n - j0);
      for (int64_t j = 0; j < width; ++j) {
        T* to = c + (j0 + j) * c_row + i;
        if (height == L)
          store(to, apply(epilogue, block[j] + b));
        else
          store(to, apply(epilogue, block[j] + b), height);
      }
    }
  }
}
}  // namespace torchext::cpu::ISA
#endif
