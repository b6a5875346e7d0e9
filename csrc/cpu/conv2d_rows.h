// Direct convolution, pixels in lanes: neighbouring results of a row share a vector, and its taps are loads from x at
// any alignment. For rows that fill their vectors: unlike images in lanes nothing is transposed, which of a layer of
// one channel is a third of the time. x is read and y written once; the multiply-add units are the bound.
#ifndef TORCHEXT_CONV2D_ROWS
#define TORCHEXT_CONV2D_ROWS
#include "conv2d_tiles.h"

namespace torchext::cpu::ISA {
template <typename A>
inline int64_t row_vectors(ConvShape s) {
  return (s.q + kLanes<A> - 1) / kLanes<A>;
}

template <typename A>
inline bool prefers_rows(ConvShape s) {
  constexpr int64_t kImage = 64 << 10;  // bytes of x beside which weights and dz stay in the nearer caches
  const int64_t lanes = row_vectors<A>(s) * kLanes<A>;
  return !s.channels_last && s.groups == 1 && s.sw == 1 && s.q >= kLanes<A> && 4 * s.q > 3 * lanes &&
         s.c * (s.h + 2 * s.ph) * (s.w + 2 * s.pw) * static_cast<int64_t>(sizeof(A)) <= kImage;
}

// An image with its border; a vector of the last row may reach past it.
template <typename A>
struct PaddedImage {
  ConvShape s;
  int64_t row, plane;
  Scratch<A> data;
  explicit PaddedImage(ConvShape s_)
      : s(s_), row(s.w + 2 * s.pw), plane((s.h + 2 * s.ph) * row), data(s.c * plane + kLanes<A>) {
    std::memset(data, 0, (s.c * plane + kLanes<A>)*sizeof(A));
  }
  template <typename T>
  void fill(const T* x) {
    constexpr int L = kLanes<A>;
    for (int64_t c = 0; c < s.c; ++c)
      for (int64_t i = 0; i < s.h; ++i, x += s.w) {
        A* to = data + c * plane + (i + s.ph) * row + s.pw;
        int64_t j = 0;
        for (; j + L <= s.w; j += L) store<A>(to + j, load(x + j));
        if (j < s.w) store<A>(to + j, load(x + j, s.w - j), s.w - j);
      }
  }
};

// Where vector i of a channel's results starts in x and in y; the last of a row overlaps the one before.
struct RowVector {
  int32_t x, y;
};

// kQ vectors of kK channels.
template <int kK, int kQ, typename T>
[[gnu::noinline]] void row_tile(T* y, int64_t y_plane, const acc_t<T>* x, const RowVector* at, const acc_t<T>* w,
                                const acc_t<T>* bias, Epilogue epilogue, Taps t) {
  using A = acc_t<T>;
  Vec<A> acc[kK][kQ];
  const A* from[kQ];
#pragma GCC unroll 8
  for (int q = 0; q < kQ; ++q) from[q] = x + at[q].x;
#pragma GCC unroll 8
  for (int k = 0; k < kK; ++k)
#pragma GCC unroll 8
    for (int q = 0; q < kQ; ++q) acc[k][q] = splat<Vec<A>>(bias[k]);
  for (int64_t c = 0; c < t.c; ++c)
    for (int64_t r = 0; r < t.r; ++r)
      for (int64_t s = 0, tap = c * t.plane + r * t.row; s < t.s; ++s, tap += t.column, w += kK) {
        Vec<A> v[kQ];
#pragma GCC unroll 8
        for (int q = 0; q < kQ; ++q) v[q] = load(from[q] + tap);
#pragma GCC unroll 8
        for (int k = 0; k < kK; ++k) {
          const auto weight = splat<Vec<A>>(w[k]);
#pragma GCC unroll 8
          for (int q = 0; q < kQ; ++q) acc[k][q] += weight * v[q];
        }
      }
#pragma GCC unroll 8
  for (int k = 0; k < kK; ++k)
#pragma GCC unroll 8
    for (int q = 0; q < kQ; ++q) store(y + k * y_plane + at[q].y, apply(epilogue, acc[k][q]));
}

// packed: as conv2d_pack() leaves it.
template <typename T>
void conv2d_rows(T* y, const T* x, const acc_t<T>* packed, const T* b, Epilogue epilogue, ConvShape s, int64_t n0,
                 int64_t n1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  PaddedImage<A> image(s);
  const int64_t across = row_vectors<A>(s), count = s.p * across, taps = s.c * s.r * s.s, plane = s.p * s.q;
  const int64_t size = block_of(s.k), blocks = block_count(s.k);
  Scratch<RowVector> vectors(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t p = i / across, q = std::min(i % across * L, s.q - L);
    vectors[i] = {static_cast<int32_t>(p * s.sh * image.row + q), static_cast<int32_t>(p * s.q + q)};
  }
  Scratch<A> bias(s.k);
  for (int64_t k = 0; k < s.k; ++k) bias[k] = b ? static_cast<A>(b[k]) : A(0);
  const Taps t{s.c, s.r, s.s, image.plane, s.dh * image.row, s.dw};
  for (int64_t n = n0; n < n1; ++n) {
    image.fill(x + n * s.c * s.h * s.w);
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t k0 = block_at(i, size, s.k).first;
      with_block(size, [&]<int kK>() {
        for_pixels(count, [&]<int kQ>(int64_t q, int64_t) {
          row_tile<kK, kQ, T>(y + (n * s.k + k0) * plane, plane, image.data, vectors + q, packed + i * taps * size,
                              bias + k0, epilogue, t);
        });
      });
    }
  }
}
}  // namespace torchext::cpu::ISA
#endif
