// Of a max-pooled convolution the patches of x that its winners read: x with channels last and a border, and from the
// gradients and offsets of the pooled results where the patches begin.
#ifndef TORCHEXT_CONV2D_PATCHES
#define TORCHEXT_CONV2D_PATCHES
#include "conv2d_tiles.h"
#include "lanes.h"

namespace torchext::cpu::ISA {
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

// A channel's pooled results as they lie in memory.
template <typename T>
struct PooledPlane {
  const T* dy;
  const uint8_t* offsets;
};

// The channels of some images; those of channels last are put apart.
template <typename T>
class PooledImages {
 public:
  PooledImages(ConvGradients<T> f, ConvShape s, int64_t windows, int64_t images)
      : f_(f),
        s_(s),
        windows_(windows),
        dy_(s.channels_last ? images * s.k * windows : 0),
        offsets_(s.channels_last ? images * s.k * windows : 0) {}

  void read(int64_t n, int64_t images) {
    const int64_t first = n * s_.k * windows_;
    from_ = {f_.dy + first, f_.offsets + first};
    if (!s_.channels_last) return;
    apart<T>(dy_, from_.dy, images), apart<uint8_t>(offsets_, from_.offsets, images);
    from_ = {dy_, offsets_};
  }
  PooledPlane<T> plane(int64_t image, int64_t k) const {
    const int64_t first = (image * s_.k + k) * windows_;
    return {from_.dy + first, from_.offsets + first};
  }

 private:
  template <typename E>
  void apart(E* to, const E* from, int64_t images) const {
    for (int64_t image = 0; image < images; ++image, to += s_.k * windows_)
      for (int64_t i = 0; i < windows_; ++i)
        for (int64_t k = 0; k < s_.k; ++k) to[k * windows_ + i] = *from++;
  }
  ConvGradients<T> f_;
  ConvShape s_;
  int64_t windows_;
  Scratch<T> dy_;
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
      const Ints<A> dead = tap == kDead;
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
}  // namespace torchext::cpu::ISA
#endif
