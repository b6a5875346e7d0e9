// c = a b + bias, optionally max(., 0): kMR x kNR accumulators in registers, b read as packed panels of kNR columns, a
// broadcast. Small and float64 products only: large ones go to oneDNN, which also blocks for the caches.
#ifndef TORCHEXT_GEMM
#define TORCHEXT_GEMM
#include "transpose.h"

namespace torchext::cpu::ISA {
inline constexpr int kMR =
    ISA_LEVEL == 512 ? 12 : 6;  // kMR * 2 accumulators, 2 for b, 1 to broadcast: of 32 or 16 registers
template <typename A>
inline constexpr int64_t kNR = 2 * kLanes<A>;

template <typename T>
int64_t matmul_pack_size(MatmulShape s) {
  return (s.n + kNR<acc_t<T>> - 1) / kNR<acc_t<T>> * kNR<acc_t<T>> * s.k;
}

// packed: ceil(n / kNR) panels of [k, kNR], zero beyond column n.
template <typename T>
void matmul_pack(acc_t<T>* packed, const T* b, MatmulShape s) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  for (int64_t j0 = 0; j0 < s.n; j0 += L) {
    A* panel = packed + j0 / kNR<A> * kNR<A> * s.k + j0 % kNR<A>;
    const int64_t width = std::min<int64_t>(L, s.n - j0);
    int64_t p = 0;
    if (s.b_col == 1) {
      if (width == L)
        for (; p < s.k; ++p) store<A>(panel + p * kNR<A>, load(b + p * s.b_row + j0));
      else
        for (; p < s.k; ++p) store<A>(panel + p * kNR<A>, load(b + p * s.b_row + j0, width));
    } else if (s.b_row == 1) {
      for (; p + L <= s.k; p += L) {
        Vec<A> block[L];
        for (int64_t j = 0; j < L; ++j) block[j] = j < width ? load(b + p + (j0 + j) * s.b_col) : Vec<A>{};
        transpose(block);
        for (int i = 0; i < L; ++i) store<A>(panel + (p + i) * kNR<A>, block[i]);
      }
    }
    for (; p < s.k; ++p)
      for (int64_t j = 0; j < L; ++j)
        panel[p * kNR<A> + j] = j < width ? static_cast<A>(b[p * s.b_row + (j0 + j) * s.b_col]) : A(0);
  }
}

template <int kRows, typename T>
inline void tile_(T* c, const T* a, const acc_t<T>* panel, const Vec<acc_t<T>> (&bias)[2], bool relu, MatmulShape s,
                  int64_t width) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  Vec<A> acc[kRows][2];
  for (int i = 0; i < kRows; ++i) acc[i][0] = bias[0], acc[i][1] = bias[1];
  for (int64_t p = 0; p < s.k; ++p) {
    const Vec<A> b0 = load(panel + p * kNR<A>), b1 = load(panel + p * kNR<A> + L);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const auto x = splat<Vec<A>>(static_cast<A>(a[i * s.a_row + p * s.a_col]));
      acc[i][0] += x * b0;
      acc[i][1] += x * b1;
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int h = 0; h < 2; ++h) {
      const int64_t count = width - h * L;
      if (count <= 0) continue;
      const Vec<A> v = relu ? (acc[i][h] < 0 ? Vec<A>{} : acc[i][h]) : acc[i][h];
      if (count >= L)
        store(c + i * s.n + h * L, v);
      else
        store(c + i * s.n + h * L, v, count);
    }
}

template <typename T>
void matmul(T* c, const T* a, const acc_t<T>* packed, const T* bias, bool relu, MatmulShape s, int64_t row0,
            int64_t row1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  for (int64_t j0 = 0; j0 < s.n; j0 += kNR<A>) {
    const A* panel = packed + j0 * s.k;
    const int64_t width = std::min<int64_t>(kNR<A>, s.n - j0);
    Vec<A> b[2] = {};
    if (bias)
      for (int h = 0; h < 2; ++h) {
        const int64_t count = std::min<int64_t>(L, width - h * L);
        if (count > 0) b[h] = count == L ? load(bias + j0 + h * L) : load(bias + j0 + h * L, count);
      }
    int64_t i = row0;
    auto rows = [&]<int kRows>() {
      tile_<kRows>(c + i * s.n + j0, a + i * s.a_row, panel, b, relu, s, width), i += kRows;
    };
    while (i + kMR <= row1) rows.template operator()<kMR>();
    while (i + 4 <= row1) rows.template operator()<4>();
    while (i < row1) rows.template operator()<1>();
  }
}
}  // namespace torchext::cpu::ISA
#endif
