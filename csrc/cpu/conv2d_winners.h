// Gradients of a max-pooled convolution: of each pooling window one result has a gradient, its winner, so that of 2 x 2
// windows the products are a quarter of the dense ones. Winners differ from image to image, which therefore cannot
// share vectors: the lanes are a row of the winner's patch of x, side by side once x is channels last, and its gradient
// is one scalar, broadcast. Per winner and vector one load from any address and one multiply-add, for dx also a store.
#ifndef TORCHEXT_CONV2D_WINNERS
#define TORCHEXT_CONV2D_WINNERS
#include "conv2d_tiles.h"
#include "lanes.h"

#define TILE [[gnu::noinline]]

namespace torchext::cpu::ISA {
inline constexpr int kPatchVectors = ISA_LEVEL == 512 ? 5 : 4, kPatchRegisters = ISA_LEVEL == 512 ? 25 : 12;
inline constexpr int64_t kWinnerImages = 4;  // at once: dx is added to in one image while the last is being stored

// x with its border and channels last; a patch of it is s.r rows of `length` neighbours, in vectors `width` long.
template <typename A>
struct Patches {
  int64_t c, columns, image, row, lanes, length, width;
  explicit Patches(ConvShape s)
      : c(s.c),
        columns(s.w + 2 * s.pw),
        image((s.h + 2 * s.ph) * columns * c),
        row(s.dh * columns * c),
        lanes(kLanes<A> >= 8 && s.s * c <= kLanes<A> / 2 ? kLanes<A> / 2 : kLanes<A>),
        length(s.s * c),
        width((length + lanes - 1) / lanes * lanes) {}
};

// A winner's vector costs about what two of the dense product's do: its loads cross cache lines.
template <typename A>
inline bool prefers_winners(ConvShape s, const ConvPool& pool) {
  const Patches<A> patches(s);
  return s.groups == 1 && s.dw == 1 && s.r > 1 && 2 * pool.p * pool.q * patches.width <= s.p * s.q * patches.length;
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

// Copies between an image as the tensor has it and one with channels last and a border; put(padded, tensor) an element.
template <typename P, typename Q, typename Put>
inline void over_image(P* padded, Q* tensor, ConvShape s, Put&& put) {
  const int64_t columns = s.w + 2 * s.pw;
  for (int64_t i = 0; i < s.h; ++i) {
    P* row = padded + ((i + s.ph) * columns + s.pw) * s.c;
    if (s.channels_last || s.c == 1)
      for (int64_t j = 0; j < s.w * s.c; ++j) put(row[j], tensor[i * s.w * s.c + j]);
    else
      for (int64_t c = 0; c < s.c; ++c)
        for (int64_t j = 0; j < s.w; ++j) put(row[j * s.c + c], tensor[(c * s.h + i) * s.w + j]);
  }
}

// w[k][r][width] out of conv2d_pack_dx()'s order.
template <typename A>
inline void patch_weights(A* w, const A* packed, ConvShape s, int64_t width) {
  const int64_t size = block_of(s.c);
  std::memset(w, 0, s.k * s.r * width * sizeof(A));
  for (int64_t i = 0; i < block_count(s.c); ++i)
    for (int64_t column = 0; column < s.s; ++column)
      for (int64_t r = 0; r < s.r; ++r)
        for (int64_t k = 0; k < s.k; ++k, packed += size)
          std::copy_n(packed, size, w + (k * s.r + r) * width + column * s.c + block_at(i, size, s.c).first);
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

// A channel's pooled results as they lie in memory. y masks dy; null: no mask.
template <typename T>
struct PooledPlane {
  const T *dy, *y;
  const uint8_t* offsets;
};

// All channels of one image, of which channels last are put apart.
template <typename T>
class PooledImage {
 public:
  PooledImage(ConvGradients<T> f, ConvShape s, int64_t windows)
      : f_(f),
        s_(s),
        windows_(windows),
        dy_(s.channels_last ? s.k * windows : 0),
        y_(s.channels_last && f.y ? s.k * windows : 0),
        offsets_(s.channels_last ? s.k * windows : 0) {}

  void read(int64_t n) {
    const int64_t first = n * s_.k * windows_;
    from_ = {f_.dy + first, f_.y ? f_.y + first : nullptr, f_.offsets + first};
    if (!s_.channels_last) return;
    apart<T>(dy_, from_.dy), apart<uint8_t>(offsets_, from_.offsets);
    if (f_.y) apart<T>(y_, from_.y);
    from_ = {dy_, f_.y ? static_cast<T*>(y_) : nullptr, offsets_};
  }
  PooledPlane<T> plane(int64_t k) const {
    const int64_t first = k * windows_;
    return {from_.dy + first, from_.y ? from_.y + first : nullptr, from_.offsets + first};
  }

 private:
  template <typename E>
  void apart(E* to, const E* from) const {
    for (int64_t i = 0; i < windows_; ++i)
      for (int64_t k = 0; k < s_.k; ++k) to[k * windows_ + i] = *from++;
  }
  ConvGradients<T> f_;
  ConvShape s_;
  int64_t windows_;
  Scratch<T> dy_, y_;
  Scratch<uint8_t> offsets_;
  PooledPlane<T> from_;
};

// The pooling windows of one channel of one image: where the patches of their first taps begin.
template <typename A>
class WinnerFinder {
 public:
  WinnerFinder(ConvShape s, const ConvPool& pool, const Patches<A>& patches)
      : windows_(pool.p * pool.q),
        kw_(static_cast<Int<A>>(pool.kw)),
        right_(static_cast<Int<A>>(s.sw * s.c)),
        down_(static_cast<Int<A>>(s.sh * patches.columns * s.c)),
        corners_(windows_ + kLanes<A>) {
    for (int64_t i = 0; i < windows_; ++i) {
      const int64_t p = i / pool.q * pool.sh - pool.ph, q = i % pool.q * pool.sw - pool.pw;
      corners_[i] = static_cast<Int<A>>(p * down_ + q * right_);
    }
  }

  // at and g, a vector past the last window too; returns the sum of g. `image` is added to every place.
  template <typename T>
  Vec<A> find(Int<A>* at, A* g, PooledPlane<T> plane, int64_t image) const {
    constexpr int L = kLanes<A>;
    const Int<A> by_kw = 65536 / kw_ + 1;  // times an offset, over 65536: offset / kw, exact up to 255 of both
    Vec<A> total{};
    auto some = [&](int64_t i, const uint8_t* taps, auto... count) {
      const Ints<A> tap = load_bytes<L, A>(taps), row = (tap * by_kw) >> 16;
      const Ints<A> place = corners(i) + row * (down_ - kw_ * right_) + tap * right_;
      const Vec<A> dy = load(plane.dy + i, count...);
      Ints<A> dead = tap == kDead;
      if (plane.y) dead |= load(plane.y + i, count...) <= 0;
      const Vec<A> kept = dead ? Vec<A>{} : dy;
      const Ints<A> to = (dead ? Ints<A>{} : place) + static_cast<Int<A>>(image);
      std::memcpy(at + i, &to, sizeof to);
      store<A>(g + i, kept);
      total += kept;
    };
    int64_t i = 0;
    for (; i + L <= windows_; i += L) some(i, plane.offsets + i);
    if (i < windows_) {
      uint8_t taps[L] = {};
      std::memcpy(taps, plane.offsets + i, windows_ - i);
      some(i, taps, windows_ - i);
    }
    return total;
  }

 private:
  Ints<A> corners(int64_t i) const {
    Ints<A> v;
    __builtin_memcpy(&v, corners_ + i, sizeof v);
    return v;
  }
  int64_t windows_;
  Int<A> kw_, right_, down_;
  Scratch<Int<A>> corners_;
};

// Whether all of x, w and dy is finite: 0 times what is not would be NaN, where a dense product has it and this has
// not.
template <typename T>
bool winner_gradients(ConvGradients<T> f, ConvShape s, const ConvPool& pool, int64_t n0, int64_t n1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  constexpr int64_t kAtOnce = kWinnerImages;
  const Patches<A> patches(s);
  const WinnerFinder<A> finder(s, pool, patches);
  const int64_t windows = pool.p * pool.q, width = patches.width, weights = s.k * s.r * width;
  const int64_t x_size = s.c * s.h * s.w, padded = kAtOnce * patches.image + 2 * L;
  PooledImage<T> pooled[kAtOnce] = {{f, s, windows}, {f, s, windows}, {f, s, windows}, {f, s, windows}};
  Scratch<A> xs(f.sums ? padded : 0), dxs(f.dx ? padded : 0), w(f.dx ? weights : 0), sums(f.sums ? weights : 0),
      db(s.k), g(kAtOnce * windows + L);
  Scratch<Int<A>> at(kAtOnce * windows + L);
  std::fill_n(static_cast<A*>(db), s.k, A(0));
  if (f.sums) std::memset(xs, 0, padded * sizeof(A)), std::memset(sums, 0, weights * sizeof(A));
  if (f.dx) patch_weights<A>(w, f.packed, s, width);
  A poison = f.dx ? poison_of<A>(w, weights) : A(0);

  for (int64_t n = n0; n < n1; n += kAtOnce) {
    const int64_t images = std::min(kAtOnce, n1 - n);
    for (int64_t i = 0; i < images; ++i) pooled[i].read(n + i);
    for (int64_t i = 0; f.sums && i < images; ++i)
      over_image(xs + i * patches.image, f.x + (n + i) * x_size, s,
                 [](A& to, const T& from) { to = static_cast<A>(from); });
    if (f.sums) poison += poison_of<A>(xs, images * patches.image);
    if (f.dx) std::memset(dxs, 0, padded * sizeof(A));
    for (int64_t k = 0; k < s.k; ++k) {
      Vec<A> total{};
      for (int64_t i = 0; i < images; ++i)
        total += finder.find(at + i * windows, g + i * windows, pooled[i].plane(k), i * patches.image);
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
