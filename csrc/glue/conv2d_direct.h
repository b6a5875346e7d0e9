// What the glue of conv2d and of conv2d_relu_max_pool2d shares: the shape, and our direct kernels, which allocate once
// and then hand raw pointers to the backend.
#pragma once
#include "../conv2d.h"
#include "../cpu/scratch.h"
#include "memory_format.h"

namespace torchext {
using Ints = std::vector<int64_t>;

inline int64_t window_count(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

inline ConvShape conv_shape(const Tensor& x, const Tensor& w, const Ints& stride, const Ints& padding,
                            const Ints& dilation, int64_t groups) {
  require(x.dim() == 4 && w.dim() == 4 && groups > 0 && x.size(1) == w.size(1) * groups && w.size(0) % groups == 0,
          "conv2d: expected x [n, c, h, w] and w [k, c / groups, r, s]");
  require(x.scalar_type() == w.scalar_type(), "conv2d: x and w differ in dtype");
  const auto windows = [&](int64_t i) {
    return window_count(x.size(2 + i), w.size(2 + i), stride[i], padding[i], dilation[i]);
  };
  const ConvShape s{.n = x.size(0),
                    .c = x.size(1),
                    .h = x.size(2),
                    .w = x.size(3),
                    .k = w.size(0),
                    .r = w.size(2),
                    .s = w.size(3),
                    .p = windows(0),
                    .q = windows(1),
                    .sh = stride[0],
                    .sw = stride[1],
                    .ph = padding[0],
                    .pw = padding[1],
                    .dh = dilation[0],
                    .dw = dilation[1],
                    .groups = groups,
                    .channels_last = channels_last(x) || channels_last(w)};
  require(s.p > 0 && s.q > 0, "conv2d: the kernel is larger than the padded image");
  return s;
}

struct CpuDirect {
  // All images, `step` at a time; f(n0, n1) is called for ranges that start at a multiple of it.
  template <typename F>
  static void over_images(ConvShape s, int64_t step, F&& f) {
    constexpr int64_t kWork = 1 << 18;  // multiply-adds worth waking a second thread for
    const int64_t work = std::max<int64_t>(1, step * s.k * s.p * s.q * s.group_c() * s.r * s.s);
    parallel_for(0, (s.n + step - 1) / step, std::max<int64_t>(1, kWork / work),
                 [&](int64_t i0, int64_t i1) { f(i0 * step, std::min(s.n, i1 * step)); });
  }

  template <typename T>
  static void conv2d(T* y, uint8_t* offsets, const T* x, const T* w, const T* b, Epilogue epilogue, ConvShape s,
                     const ConvPool* pool, const Tensor&) {
    const auto& kernels = cpu::conv_kernels<T>();
    cpu::Scratch<acc_t<T>> packed(kernels.pack_size(s));
    kernels.pack(packed, w, s);
    over_images(s, kernels.images(s, pool),
                [&](int64_t n0, int64_t n1) { kernels.forward(y, offsets, x, packed, b, epilogue, s, pool, n0, n1); });
  }

  // Weight gradients are summed over at most kParts ranges of images, each on its own, and the ranges in order: how the
  // sum is rounded does not depend on the number of threads.
  template <typename T>
  static void conv2d_backward(T* dx, T* dw, T* db, const T* dy, const T* y, const uint8_t* offsets, const T* x,
                              const T* w, ConvShape s, const ConvPool* pool, const Tensor&) {
    using A = acc_t<T>;
    const auto& kernels = cpu::conv_kernels<T>();
    constexpr int64_t kParts = 16;
    const int64_t weights = s.k * s.group_c() * s.r * s.s, sums = weights + s.k;
    const int64_t at_once = kernels.backward_images(s, pool, dx), groups = (s.n + at_once - 1) / at_once,
                  step = std::max<int64_t>(1, (groups + kParts - 1) / kParts) * at_once;
    const bool want_sums = dw || db;
    cpu::Scratch<A> packed(dx ? kernels.pack_dx_size(s) : 0), parts(want_sums ? kParts * sums : 0);
    if (dx) kernels.pack_dx(packed, w, s);
    over_images(s, step, [&](int64_t n0, int64_t n1) {
      for (int64_t n = n0; n < n1; n += step) {
        A* part = want_sums ? parts + n / step * sums : nullptr;
        const cpu::ConvGradients<T> gradients{
            .dx = dx, .sums = part, .dy = dy, .y = y, .offsets = offsets, .x = x, .packed = packed};
        kernels.backward(gradients, s, pool, n, std::min(n1, n + step));
      }
    });
    if (!want_sums) return;
    const int64_t count = (s.n + step - 1) / step;
    if (count == 0) std::fill_n(static_cast<A*>(parts), sums, A(0));
    for (int64_t part = 1; part < count; ++part)
      for (int64_t i = 0; i < sums; ++i) parts[i] += parts[part * sums + i];
    if (dw) std::copy_n(static_cast<A*>(parts), weights, dw);
    if (db) std::copy_n(parts + weights, s.k, db);
  }
};

// y and its offsets, which without a pool are not written.
template <class Backend>
std::tuple<Tensor, Tensor> direct(const Tensor& x_, const Tensor& w_, const std::optional<Tensor>& b_,
                                  Epilogue epilogue, ConvShape s, const ConvPool* pool) {
  const Tensor x = dense(x_, s.channels_last), w = dense(w_);
  const std::optional<Tensor> b = dense(b_);
  const int64_t size[] = {s.n, s.k, pool ? pool->p : s.p, pool ? pool->q : s.q};
  Tensor y = empty_image(x, size, s.channels_last);
  Tensor offsets = pool ? empty_image(x, size, s.channels_last, aoti_torch_dtype_uint8()) : y;
  dispatch_float(x, "conv2d", [&]<typename T>() {
    Backend::template conv2d<T>(ptr<T>(y), pool ? ptr<uint8_t>(offsets) : nullptr, ptr<T>(x), ptr<T>(w), ptr<T>(b),
                                epilogue, s, pool, x);
  });
  return {y, offsets};
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor> direct_backward(const Tensor& dy_, const Tensor& x_, const Tensor& w_,
                                                   const std::optional<Tensor>& y, const std::optional<Tensor>& offsets,
                                                   ConvShape s, const ConvPool* pool, bool want_dx, bool want_dw,
                                                   bool want_db) {
  const bool last = s.channels_last;
  const Tensor dy = dense(dy_, last), x = dense(x_, last), w = dense(w_);
  auto none = [&] { return empty(x, {0}); };  // one each: results of an op may not alias
  const auto mask = y ? std::optional(dense(*y, last)) : std::nullopt,
             at = offsets ? std::optional(dense(*offsets, last)) : std::nullopt;
  Tensor dx = want_dx ? empty_image(x, {s.n, s.c, s.h, s.w}, last) : none();
  Tensor dw = want_dw ? empty_image(x, {s.k, s.group_c(), s.r, s.s}, false) : none();
  Tensor db = want_db ? empty(x, {s.k}) : none();
  dispatch_float(x, "conv2d_backward", [&]<typename T>() {
    Backend::template conv2d_backward<T>(want_dx ? ptr<T>(dx) : nullptr, want_dw ? ptr<T>(dw) : nullptr,
                                         want_db ? ptr<T>(db) : nullptr, ptr<T>(dy), ptr<T>(mask), ptr<uint8_t>(at),
                                         ptr<T>(x), ptr<T>(w), s, pool, x);
  });
  return {dx, want_dw ? dense(dw, last) : none(), db};
}
}  // namespace torchext
