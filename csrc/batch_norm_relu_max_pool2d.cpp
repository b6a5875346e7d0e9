// batch_norm_relu_max_pool2d, glue: allocate once, then each pass over the threads. There is no CUDA kernel.
#include "batch_norm_relu_max_pool2d.h"

#include "glue/memory_format.h"
#include "glue/torch.h"

namespace torchext {
namespace {
BatchNormPool shape_of(const char* op, const Tensor& x, bool channels_last, int64_t oh, int64_t ow, int64_t kh,
                       int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw) {
  require(x.dim() == 4, op, ": expected x [n, c, h, w]");
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  require(n * c * h * w > 0, op, ": expected x of at least one element");
  require(kh > 0 && kw > 0 && kh * kw <= kMaxTaps && sh > 0 && sw > 0 && 0 <= ph && 2 * ph <= kh && 0 <= pw &&
              2 * pw <= kw && oh > 0 && ow > 0,
          op, ": expected a window of 1 to ", kMaxTaps, " taps, padded by half of it at most, and positive strides");
  require((oh - 1) * sh - ph < h && (ow - 1) * sw - pw < w, op, ": a window begins beyond x");
  return {c, {channels_last ? n : n * c, channels_last ? c : 1, h, w, oh, ow, kh, kw, sh, sw, ph, pw, 1, 1}};
}

void require_channels(const char* op, const std::optional<Tensor>& t, const Tensor& x) {
  require(!t || (t->dim() == 1 && t->size(0) == x.size(1) && t->scalar_type() == x.scalar_type()), op,
          ": expected weight and bias [c] of x's dtype");
}

// [rows, channels] in the type x accumulates in.
Tensor per_channel(const Tensor& x, int64_t rows) {
  const bool wide = x.scalar_type() == ScalarType::Double;
  return empty(x, {rows, x.size(1)}, wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
}

// Two sums of each channel for each part of the batch.
Tensor per_part(const Tensor& x, const BatchNormPool& s) {
  return empty(x, {s.parts(), 2 * s.channels}, aoti_torch_dtype_float64());
}

template <typename F>
void over_units(const BatchNormPool& s, F&& f) {
  parallel_for(0, s.units(), grain(s.unit_rows() * s.pool.w * s.pool.channels), f);
}
template <typename F>
void over_channels(const BatchNormPool& s, F&& f) {
  parallel_for(0, s.channels, grain(4 * s.parts()), f);
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_relu_max_pool2d(const Tensor& x_, const std::optional<Tensor>& w_,
                                                              const std::optional<Tensor>& b_, double eps,
                                                              bool channels_last, int64_t oh, int64_t ow, int64_t kh,
                                                              int64_t kw, int64_t sh, int64_t sw, int64_t ph,
                                                              int64_t pw) {
  const char* op = "batch_norm_relu_max_pool2d";
  const BatchNormPool s = shape_of(op, x_, channels_last, oh, ow, kh, kw, sh, sw, ph, pw);
  require_channels(op, w_, x_);
  require_channels(op, b_, x_);
  const Tensor x = dense(x_, channels_last);
  const auto w = dense(w_), b = dense(b_);
  const int64_t sizes[] = {x.size(0), x.size(1), oh, ow};
  Tensor y = empty_image(x, sizes, channels_last);
  Tensor offsets = empty_image(x, sizes, channels_last, aoti_torch_dtype_uint8());
  Tensor statistics = per_channel(x, 2), affine = per_channel(x, 2), moments = per_part(x, s);
  dispatch_float(x, op, [&]<typename T>() {
    using A = acc_t<T>;
    const auto& kernels = cpu::batch_norm_pool_kernels<T>();
    const T* from = ptr<T>(x);
    double* parts = ptr<double>(moments);
    A* lines = ptr<A>(affine);
    over_units(s, [&](int64_t u0, int64_t u1) { kernels.moments(parts, from, s, u0, u1); });
    over_channels(s, [&](int64_t c0, int64_t c1) {
      cpu::batch_norm_affine(ptr<A>(statistics), lines, parts, ptr<T>(w), ptr<T>(b), eps, s, c0, c1);
    });
    parallel_for(0, s.pool.planes * oh, grain(s.pool.kh * s.pool.w * s.pool.channels), [&](int64_t row0, int64_t row1) {
      kernels.forward(ptr<T>(y), ptr<uint8_t>(offsets), from, lines, s, row0, row1);
    });
  });
  return {y, offsets, statistics};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_relu_max_pool2d_backward(const Tensor& dy_, const Tensor& offsets_,
                                                                       const Tensor& x_, const Tensor& statistics_,
                                                                       const std::optional<Tensor>& w_, double eps,
                                                                       bool channels_last, int64_t kh, int64_t kw,
                                                                       int64_t sh, int64_t sw, int64_t ph, int64_t pw,
                                                                       bool want_dx) {
  const char* op = "batch_norm_relu_max_pool2d_backward";
  require(dy_.dim() == 4 && offsets_.dim() == 4, op, ": expected dy and offsets [n, c, oh, ow]");
  const BatchNormPool s = shape_of(op, x_, channels_last, dy_.size(2), dy_.size(3), kh, kw, sh, sw, ph, pw);
  for (int64_t i = 0; i < 4; ++i)
    require(dy_.size(i) == offsets_.size(i) && (i > 1 || dy_.size(i) == x_.size(i)), op,
            ": expected dy and offsets of one shape, that of x pooled");
  require(statistics_.dim() == 2 && statistics_.size(0) == 2 && statistics_.size(1) == s.channels, op,
          ": expected statistics [2, c]");
  require_channels(op, w_, x_);
  const Tensor x = dense(x_, channels_last), dy = dense(dy_, channels_last), offsets = dense(offsets_, channels_last);
  const Tensor statistics = dense(statistics_);
  const auto w = dense(w_);
  const int64_t sizes[] = {x.size(0), x.size(1), x.size(2), x.size(3)};
  Tensor dx = want_dx ? empty_image(x, sizes, channels_last) : empty(x, {0});
  Tensor dw = empty(x, {s.channels}), db = empty(x, {s.channels}), slopes = per_channel(x, 4), sums = per_part(x, s);
  dispatch_float(x, op, [&]<typename T>() {
    using A = acc_t<T>;
    const auto& kernels = cpu::batch_norm_pool_kernels<T>();
    const T *from = ptr<T>(x), *g = ptr<T>(dy);
    const uint8_t* taps = ptr<uint8_t>(offsets);
    const A* given = ptr<A>(statistics);
    double* parts = ptr<double>(sums);
    over_units(s, [&](int64_t u0, int64_t u1) { kernels.sums(parts, g, taps, from, given, s, u0, u1); });
    over_channels(s, [&](int64_t c0, int64_t c1) {
      cpu::batch_norm_slopes(ptr<A>(slopes), ptr<T>(dw), ptr<T>(db), parts, given, ptr<T>(w), eps, s, c0, c1);
    });
    if (!want_dx) return;
    over_units(s,
               [&](int64_t u0, int64_t u1) { kernels.backward(ptr<T>(dx), g, taps, from, ptr<A>(slopes), s, u0, u1); });
  });
  return {dx, dw, db};
}

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, m) {
  m.impl("batch_norm_relu_max_pool2d", TORCH_BOX(&batch_norm_relu_max_pool2d));
  m.impl("batch_norm_relu_max_pool2d_backward", TORCH_BOX(&batch_norm_relu_max_pool2d_backward));
}
}  // namespace
}  // namespace torchext
