// Gradients of a max-pooled convolution: of each pooling window one result has a gradient, its winner, so that of 2 x 2
// windows the products are a quarter of the dense ones. Winners differ from image to image, which therefore cannot
// share vectors: the lanes are a row of the winner's patch of x, side by side once x is channels last, and its gradient
// is one scalar, broadcast. Per winner and vector one load from any address and one multiply-add, for dx also a store.
#ifndef TORCHEXT_CONV2D_WINNERS
#define TORCHEXT_CONV2D_WINNERS
#include "conv2d_patches.h"

#define TILE [[gnu::noinline]]

namespace torchext::cpu::ISA {
inline constexpr int kPatchVectors = ISA_LEVEL == 512 ? 5 : 4, kPatchRegisters = ISA_LEVEL == 512 ? 25 : 12;
inline constexpr int64_t kWinnerImages = 8;  // a range's: fewer would be spent on what each range does once

// A winner's vector costs about what two of the dense product's do: its loads cross cache lines.
template <typename A>
inline bool prefers_winners(ConvShape s, const ConvPool& pool) {
  constexpr int64_t kImage = 1 << 28;  // scalars: places in a few images are 32 bits
  const Patches<A> patches(s);
  return s.groups == 1 && s.dw == 1 && s.r > 1 && patches.image < kImage &&
         2 * pool.p * pool.q * patches.width <= s.p * s.q * patches.length;
}

// f<N>() with the lanes of a patch's vectors.
template <typename A, typename F>
inline void with_lanes(int64_t lanes, F&& f) {
  constexpr int L = kLanes<A>;
  if constexpr (L >= 8)
    if (lanes < L) return f.template operator()<L / 2>();
  f.template operator()<L>();
}

template <int kMost, typename F>
inline void with_count(int64_t count, F&& f) {
  if constexpr (kMost > 1)
    if (count < kMost) return with_count<kMost - 1>(count, f);
  f.template operator()<kMost>();
}

// f<kV, kR>(r, v) for tiles of kR rows and kV vectors that cover a patch.
template <typename F>
inline void over_patch(int64_t rows, int64_t vectors, F&& f) {
  for (int64_t v = 0; v < vectors; v += kPatchVectors)
    with_count<kPatchVectors>(vectors - v, [&]<int kV>() {
      int64_t r = 0;
      if constexpr (5 * kV <= kPatchRegisters)
        for (; r + 5 <= rows; r += 5) f.template operator()<kV, 5>(r, v);
      if constexpr (3 * kV <= kPatchRegisters)
        for (; r + 3 <= rows; r += 3) f.template operator()<kV, 3>(r, v);
      for (; r < rows; ++r) f.template operator()<kV, 1>(r, v);
    });
}

// Where winners' patches begin and what their gradients are, image after image.
template <typename A>
struct Winners {
  const Int<A>* at;
  const A* g;
  int64_t windows, images;
};

// sums += x times g.
template <int N, int kV, int kR, typename A>
TILE void winner_weights(A* sums, int64_t sums_row, const A* x, int64_t x_row, Winners<A> winners) {
  Vec<A, N> acc[kR][kV] = {};
  for (int64_t i = 0; i < winners.images * winners.windows; ++i) {
    const A* from = x + winners.at[i];
    const auto g = splat<Vec<A, N>>(winners.g[i]);
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r, from += x_row)
#pragma GCC unroll 8
      for (int v = 0; v < kV; ++v) acc[r][v] += g * load_lanes<N>(from + v * N);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      A* to = sums + r * sums_row + v * N;
      store_lanes<N>(to, load_lanes<N>(to) + acc[r][v]);
    }
}

// dx += w times g.
template <int N, int kV, int kR, typename A>
TILE void winner_inputs(A* dx, int64_t dx_row, const A* w, int64_t w_row, Winners<A> winners) {
  Vec<A, N> weights[kR][kV];
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) weights[r][v] = load_lanes<N>(w + r * w_row + v * N);
  for (int64_t i = 0; i < winners.windows; ++i)
    for (int64_t n = 0; n < winners.images; ++n) {
      A* to = dx + winners.at[n * winners.windows + i];
      const auto g = splat<Vec<A, N>>(winners.g[n * winners.windows + i]);
#pragma GCC unroll 8
      for (int r = 0; r < kR; ++r, to += dx_row)
#pragma GCC unroll 8
        for (int v = 0; v < kV; ++v) store_lanes<N>(to + v * N, load_lanes<N>(to + v * N) + g * weights[r][v]);
    }
}

// 0, or NaN if one of them is not finite.
template <typename A>
inline A poison_of(const A* p, int64_t count) {
  constexpr int L = kLanes<A>;
  Vec<A> poison{};
  int64_t i = 0;
  for (; i + L <= count; i += L) poison += A(0) * load(p + i);
  if (i < count) poison += A(0) * load(p + i, count - i);
  return sum(poison);
}

// Whether all of x, w and dy is finite: 0 times what is not would be NaN,
// where a dense product has it and this has not.
template <typename T>
bool winner_gradients(ConvGradients<T> f, ConvShape s, const ConvPool& pool, int64_t n0, int64_t n1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  constexpr int64_t kAtOnce = 4;  // images: dx is added to in one while the last is being stored
  const Patches<A> patches(s);
  const WinnerFinder<A> finder(s, pool, patches);
  const int64_t windows = pool.p * pool.q, width = patches.width, weights = s.k * s.r * width;
  const int64_t x_size = s.c * s.h * s.w, padded = kAtOnce * patches.image + 2 * L;
  PooledImages<T> pooled(f, s, windows, kAtOnce);
  Scratch<A> xs(f.sums ? padded : 0), dxs(f.dx ? padded : 0), w(f.dx ? weights : 0), sums(f.sums ? weights : 0),
      db(s.k), g(kAtOnce * windows + L);
  Scratch<Int<A>> at(kAtOnce * windows + L);
  std::fill_n(static_cast<A*>(db), s.k, A(0));
  if (f.sums) std::memset(xs, 0, padded * sizeof(A)), std::memset(sums, 0, weights * sizeof(A));
  if (f.dx) patch_weights<A>(w, f.packed, s, width);
  A poison = f.dx ? poison_of<A>(w, weights) : A(0);

  for (int64_t n = n0; n < n1; n += kAtOnce) {
    const int64_t images = std::min(kAtOnce, n1 - n);
    pooled.read(n, images);
    for (int64_t i = 0; f.sums && i < images; ++i)
      over_image(xs + i * patches.image, f.x + (n + i) * x_size, s,
                 [](A& to, const T& from) { to = static_cast<A>(from); });
    if (f.sums) poison += poison_of<A>(xs, images * patches.image);
    if (f.dx) std::memset(dxs, 0, padded * sizeof(A));
    for (int64_t k = 0; k < s.k; ++k) {
      Vec<A> total{};
      for (int64_t i = 0; i < images; ++i)
        total += finder.find(at + i * windows, g + i * windows, pooled.plane(i, k), i * patches.image);
      db[k] += sum(total);
      const Winners<A> winners{at, g, windows, images};
      with_lanes<A>(patches.lanes, [&]<int N>() {
        over_patch(s.r, width / N, [&]<int kV, int kR>(int64_t r, int64_t v) {
          const int64_t weight = (k * s.r + r) * width + v * N, corner = r * patches.row + v * N;
          if (f.sums) winner_weights<N, kV, kR, A>(sums + weight, width, xs + corner, patches.row, winners);
          if (f.dx) winner_inputs<N, kV, kR, A>(dxs + corner, patches.row, w + weight, width, winners);
        });
      });
    }
    poison += poison_of<A>(db, s.k);
    for (int64_t i = 0; f.dx && i < images; ++i)
      over_image(dxs + i * patches.image, f.dx + (n + i) * x_size, s,
                 [](const A& from, T& to) { to = static_cast<T>(from); });
  }
  if (poison != 0) return false;
  if (!f.sums) return true;
  for (int64_t k = 0; k < s.k; ++k)
    for (int64_t c = 0; c < s.c; ++c)
      for (int64_t r = 0; r < s.r; ++r)
        for (int64_t column = 0; column < s.s; ++column) *f.sums++ = sums[(k * s.r + r) * width + column * s.c + c];
  std::copy_n(static_cast<A*>(db), s.k, f.sums);
  return true;
}
}  // namespace torchext::cpu::ISA
#undef TILE
#endif
