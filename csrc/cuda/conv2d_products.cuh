// conv2d's products, described: which tensor is gathered how. With K = group_c r s, all for each group,
//
//   forward          [n p q, K] by [K, group_k]
//   input gradient   [n h w, t] by [t, group_c], one product for each residue of (h mod sh, w mod sw),
//                    t = the terms that reach it
//   weight gradient  [group_k, n p q] by [n p q, K]
//
// Channels_last images are rows of a product and channels its columns; contiguous images lie the other way round, so
// that in both the columns, which neighbouring threads read and write, are neighbours in memory.
#pragma once
#include "../conv2d.h"

#include <numeric>

#include "conv2d_product.cuh"

namespace torchext::cuda {
// How far neighbours along each dimension of a dense [n, c, h, w] tensor lie apart.
struct Strides {
  int64_t n, c, h, w;
  Strides(int64_t c_, int64_t h_, int64_t w_, bool last)
      : n(c_ * h_ * w_), c(last ? 1 : h_ * w_), h(last ? w_ * c_ : w_), w(last ? c_ : 1) {}
  Point rows(int64_t step) const { return {step * h, static_cast<int>(step), 0}; }
  Point columns(int64_t step) const { return {step * w, 0, static_cast<int>(step)}; }
  Point at(int64_t i, int64_t j) const { return {i * h + j * w, static_cast<int>(i), static_cast<int>(j)}; }
};

template <typename T>
class Products {
 public:
  explicit Products(ConvShape s)
      : s_(s),
        x_(s.c, s.h, s.w, s.channels_last),
        y_(s.k, s.p, s.q, s.channels_last),
        w_(s.group_c(), s.r, s.s, s.channels_last),
        last_(s.channels_last) {}

  ConvProduct<T> forward(T* y, const T* x, const T* w, const T* bias, Epilogue epilogue) const {
    const Gathered<T> image{x, s_.group_c() * x_.c, pixels(), taps(), height(), width(), order()};
    const Gathered<T> weight{w,     s_.group_k() * w_.n, Walk({}, {s_.group_k(), {w_.n}}), Walk({}, {w_.n, {1}}), 1, 1,
                             kAlong};
    ConvProduct<T> g = product(y, y_, image, weight, results(), s_.group_k());
    g.bias = bias, g.epilogue = epilogue;
    return g;
  }

  // The pixels of dx with h mod sh == i and w mod sw == j meet every step-th tap alone, and rows of dy side by side: a
  // convolution without stride, with no multiplication by the zeros between dy's pixels.
  ConvProduct<T> input_gradient(T* dx, const T* dz, const T* w, int64_t i, int64_t j) const {
    const Axis h(i, s_.h, s_.r, s_.sh, s_.ph, s_.dh), v(j, s_.w, s_.s, s_.sw, s_.pw, s_.dw);
    const Digit channels{s_.group_k(), {y_.c}}, images{s_.n, {y_.n}};
    const Walk met(y_.at(h.first, v.first), {v.count, y_.columns(1)}, {h.count, y_.rows(1)}, images);
    const Walk taps({}, channels, {v.taps, y_.columns(-v.dilation)}, {h.taps, y_.rows(-h.dilation)});
    const Walk weights({h.tap * w_.h + v.tap * w_.w}, {s_.group_k(), {w_.n}}, {v.taps, {v.step * w_.w}},
                       {h.taps, {h.step * w_.h}});
    const Walk pixels({i * x_.h + j * x_.w}, {v.count, {s_.sw * x_.w}}, {h.count, {s_.sh * x_.h}}, {s_.n, {x_.n}});
    const int p = static_cast<int>(s_.p), q = static_cast<int>(s_.q);
    const bool run = pointwise();
    const Gathered<T> image{dz, s_.group_k() * y_.c, run ? results() : met, taps, run ? 1 : p, run ? 1 : q, order()};
    const Gathered<T> weight{
        w, s_.group_k() * w_.n, Walk({}, {s_.group_c(), {w_.c}}), weights, 1, 1, last_ || run ? kAcross : kAlong};
    return product(dx, x_, image, weight, run ? this->pixels() : pixels, s_.group_c());
  }
  // Residues that any pixel has.
  int64_t residues_h() const { return std::min(s_.sh, s_.h); }
  int64_t residues_w() const { return std::min(s_.sw, s_.w); }

  ConvProduct<T> weight_gradient(T* dw, const T* dz, const T* x) const {
    const Order order = last_ ? kAcross : kAlong;
    const Gathered<T> gradient{dz, s_.group_k() * y_.c, Walk({}, {s_.group_k(), {y_.c}}), results(), 1, 1, order};
    const Gathered<T> image{x, s_.group_c() * x_.c, taps(), pixels(), height(), width(), order};
    return {gradient, image, dw, s_.group_k() * w_.n, Walk({}, {s_.group_k(), {w_.n}}), Walk({}, {w_.n, {1}}),
            s_.groups};
  }

 private:
  static constexpr Order kAlong = Order::kAlong, kAcross = Order::kAcross;
  // Of an image's tile, whose lines are to be neighbours in memory: a pixel's channels, or a channel's pixels.
  Order order() const { return last_ ? kAlong : kAcross; }

  // The pixels `residue`, residue + stride, .. of one axis, `count` of them, and what they meet: taps
  // `tap`, tap + step, ..; at the first pixel the first of them meets dy's `first`, the next lie `dilation` before it.
  struct Axis {
    int64_t count, taps = 0, tap = 0, first = 0, step, dilation;
    Axis(int64_t residue, int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation_)
        : count((size - residue + stride - 1) / stride),
          step(stride / std::gcd(stride, dilation_)),
          dilation(dilation_ / std::gcd(stride, dilation_)) {
      const int64_t end = std::min(step, kernel);
      while (tap < end && (residue + padding - tap * dilation_) % stride != 0) ++tap;
      if (tap == end) return;
      taps = (kernel - tap + step - 1) / step;
      first = (residue + padding - tap * dilation_) / stride;
    }
  };

  // A 1 x 1 kernel that visits every pixel once needs no image: pixels are then one run, which comes in packs.
  bool pointwise() const { return s_.r == 1 && s_.s == 1 && s_.sh == 1 && s_.sw == 1 && s_.ph == 0 && s_.pw == 0; }
  int height() const { return pointwise() ? 1 : static_cast<int>(s_.h); }
  int width() const { return pointwise() ? 1 : static_cast<int>(s_.w); }
  // x where the first tap of each of y's pixels meets it.
  Walk pixels() const {
    if (pointwise()) return Walk({}, {s_.h * s_.w, {x_.w}}, {s_.n, {x_.n}});
    return Walk(x_.at(-s_.ph, -s_.pw), {s_.q, x_.columns(s_.sw)}, {s_.p, x_.rows(s_.sh)}, {s_.n, {x_.n}});
  }
  // From there to each tap and channel, in w's order.
  Walk taps() const {
    const Digit channels{s_.group_c(), {x_.c}}, rows{s_.r, x_.rows(s_.dh)}, columns{s_.s, x_.columns(s_.dw)};
    return last_ ? Walk({}, channels, columns, rows) : Walk({}, columns, rows, channels);
  }
  Walk results() const { return Walk({}, {s_.p * s_.q, {y_.w}}, {s_.n, {y_.n}}); }

  ConvProduct<T> product(T* c, const Strides& strides, const Gathered<T>& image, const Gathered<T>& weight,
                         const Walk& pixels, int64_t channels) const {
    const Walk along({}, {channels, {strides.c}});
    ConvProduct<T> g = last_ ? ConvProduct<T>{image, weight, c, channels * strides.c, pixels, along, s_.groups}
                             : ConvProduct<T>{weight, image, c, channels * strides.c, along, pixels, s_.groups};
    g.channels_down = !last_;
    return g;
  }

  ConvShape s_;
  Strides x_, y_, w_;
  bool last_;
};
}  // namespace torchext::cuda
