// c = a b + bias, then the epilogue. Tiles of c stay in registers over a block of k: a panel of kNR columns of b,
// packed, comes from L1, rows of a, broadcast, from L2, in place wherever they lie dense. Bound by the multiply-add
// units: 4 x 3 registers of AVX2 take 12 multiply-adds and 7 loads a step, 97 GFLOP/s on a Zen 3 core whose peak is
// 104; 6 x 2, with 8 loads, 83 to 95 as the rows lie. An element of c is summed over p in order wherever it lies: the
// result does not depend on how c is divided.
#ifndef TORCHEXT_GEMM
#define TORCHEXT_GEMM
#include "gemm_tiles.h"

namespace torchext::cpu::ISA {
inline constexpr int64_t kRowBlock = 256, kColumnBlock = 24 * 21;  // rows of a: 256 KB, in L2; sums: 512 KB

// A matrix in memory; one of row and column is 1.
template <typename T>
struct Strided {
  T* data;
  int64_t row, column;
  Strided at(int64_t i, int64_t j) const { return {data + i * row + j * column, row, column}; }
  Strided transposed() const { return {data, column, row}; }
};

// c: [m, n] of the whole product's. kTransposed: it lies transposed in memory, and the bias goes down its columns.
template <bool kTransposed, typename T>
void block(Strided<T> c, Strided<const T> a, Strided<const T> b, const T* bias, Epilogue epilogue, int64_t m, int64_t n,
           int64_t k) {
  using A = acc_t<T>;
  const int64_t depths = std::max<int64_t>(1, (k + kDepth<A> - 1) / kDepth<A>), depth = (k + depths - 1) / depths;
  constexpr int64_t kAliases = 2048;  // bytes: rows so far apart take each other's places in L1, 55 GFLOP/s for 91
  const bool in_place = std::is_same_v<T, A> && a.column == 1 && (k < 64 || a.row * sizeof(A) % kAliases != 0);
  const int64_t a_row = in_place ? a.row : whole_vectors<A>(depth) + kLanes<A>,
                panels = depths > 1 ? (n + kNR<A> - 1) / kNR<A> : 1;
  Scratch<A> packed(in_place ? 0 : m * a_row), panel(kNR<A> * depth), sums(kNR<A> * m * panels);
  for (int64_t d = 0; d < depths; ++d) {
    const int64_t p = d * depth, steps = std::min(depth, k - p);
    const A* rows = packed;
    if constexpr (std::is_same_v<T, A>) rows = in_place ? a.at(0, p).data : rows;
    if (!in_place) pack<T>(packed, a_row, a.at(0, p).data, a.row, a.column, m, steps);
    for (int64_t j = 0; j < n; j += kNR<A>) {
      const int64_t width = std::min(kNR<A>, n - j), vectors = whole_vectors<A>(width);
      const bool last = d + 1 == depths, direct = last && !kTransposed;
      A* sum = sums + (depths > 1 ? j * m : 0);
      const Target<T> to{direct ? c.at(0, j).data : nullptr, c.row, direct && bias ? bias + j : nullptr, epilogue,
                         width};
      pack<T>(panel, vectors, b.at(p, j).data, b.row, b.column, steps, width);
      with_rows<3>(vectors / kLanes<A>,
                   [&]<int kVectors>() { tiles<kVectors, T>(sum, to, rows, a_row, 1, panel, m, steps, d > 0); });
      if (last && kTransposed) finish_transposed<T>(c.at(0, j).data, c.column, sum, bias, epilogue, m, width);
    }
  }
}

// Cycles, roughly: columns come in vectors, which b is packed into; a transposed result costs about what packing does.
template <typename T>
int64_t cost(int64_t m, int64_t n, int64_t k, bool in_place, bool transposed) {
  constexpr int L = kLanes<acc_t<T>>;
  const int64_t packed = n * k * ((m + kRowBlock - 1) / kRowBlock) + (in_place ? 0 : m * k) + (transposed ? m * n : 0);
  return m * whole_vectors<acc_t<T>>(n) * k / (2 * L) + 4 * packed / L;
}

template <bool kTransposed, typename T>
void blocks(Strided<T> c, Strided<const T> a, Strided<const T> b, const T* bias, Epilogue epilogue, int64_t k,
            MatmulPart part) {
  for (int64_t j = part.j0; j < part.j1; j += kColumnBlock)
    for (int64_t i = part.i0; i < part.i1; i += kRowBlock)
      block<kTransposed, T>(c.at(i, j), a.at(i, 0), b.at(0, j), bias ? bias + (kTransposed ? i : j) : nullptr, epilogue,
                            std::min(kRowBlock, part.i1 - i), std::min(kColumnBlock, part.j1 - j), k);
}

// As it is, or as c^T = b^T a^T: what is broadcast may lie in place, what comes in vectors should fill them.
template <typename T>
void matmul(T* c, const T* a, const T* b, const T* bias, Epilogue epilogue, MatmulShape s, MatmulPart part) {
  const Strided<T> c_{c, s.n, 1};
  const Strided<const T> a_{a, s.a_row, s.a_col}, b_{b, s.b_row, s.b_col};
  constexpr bool kSame = std::is_same_v<T, acc_t<T>>;
  if (cost<T>(s.m, s.n, s.k, kSame && s.a_col == 1, false) <= cost<T>(s.n, s.m, s.k, kSame && s.b_row == 1, true))
    return blocks<false, T>(c_, a_, b_, bias, epilogue, s.k, part);
  blocks<true, T>(c_.transposed(), b_.transposed(), a_.transposed(), bias, epilogue, s.k,
                  {part.j0, part.j1, part.i0, part.i1});
}
}  // namespace torchext::cpu::ISA
#endif
