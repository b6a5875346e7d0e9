// max_pool2d, glue: allocate once, then hand raw pointers to the backend.
#include "max_pool2d.h"

#include "glue/torch.h"

namespace torchext {
namespace {
struct Cpu {
  // All planes' rows, `rows` a plane, in ranges that the kernels take; f(row0, row1).
  template <typename T, typename F>
  static void over_rows(const PoolShape& s, int64_t rows, int64_t work, F&& f) {
    const int64_t all = s.planes * rows, step = std::max<int64_t>(1, cpu::pool_kernels<T>().planes(s) * rows);
    parallel_for(0, (all + step - 1) / step, grain(step * work),
                 [&](int64_t i0, int64_t i1) { f(i0 * step, std::min(all, i1 * step)); });
  }

  template <typename T>
  static void max_pool2d(T* y, uint8_t* offsets, const T* x, const PoolShape& s, const Tensor&) {
    const auto& kernels = cpu::pool_kernels<T>();
    over_rows<T>(s, s.oh, s.ow * s.channels * s.kh * s.kw,
                 [&](int64_t row0, int64_t row1) { kernels.forward(y, offsets, x, s, row0, row1); });
  }

  template <typename T>
  static void max_pool2d_backward(T* dx, const T* dy, const uint8_t* offsets, const PoolShape& s, const Tensor&) {
    const auto& kernels = cpu::pool_kernels<T>();
    over_rows<T>(s, s.h, 2 * s.w * s.channels,
                 [&](int64_t row0, int64_t row1) { kernels.backward(dx, dy, offsets, s, row0, row1); });
  }

  static void max_pool2d_indices(int64_t* indices, const uint8_t* offsets, const PoolShape& s, const Tensor&) {
    parallel_for(0, s.planes * s.oh, grain(s.ow * s.channels),
                 [&](int64_t row0, int64_t row1) { cpu::max_pool2d_indices(indices, offsets, s, row0, row1); });
  }
};

// On a GPU, and on the CPU as the `.simt` overloads.
struct Cuda {
  template <typename T>
  static void max_pool2d(T* y, uint8_t* offsets, const T* x, const PoolShape& s, const Tensor& like) {
    cuda::max_pool2d(y, offsets, x, s, OnDevice(like).stream());
  }

  template <typename T>
  static void max_pool2d_backward(T* dx, const T* dy, const uint8_t* offsets, const PoolShape& s, const Tensor& like) {
    cuda::max_pool2d_backward(dx, dy, offsets, s, OnDevice(like).stream());
  }

  static void max_pool2d_indices(int64_t* indices, const uint8_t* offsets, const PoolShape& s, const Tensor& like) {
    cuda::max_pool2d_indices(indices, offsets, s, OnDevice(like).stream());
  }
};

// [n, c, h, w], or [c, h, w], dense in one of the two memory formats.
struct Maps {
  int64_t n, c, h, w;
  bool batched, channels_last;

  Maps(const Tensor& t, int64_t h, int64_t w, bool channels_last)
      : n(t.dim() == 4 ? t.size(0) : 1),
        c(t.size(t.dim() - 3)),
        h(h),
        w(w),
        batched(t.dim() == 4),
        channels_last(channels_last) {}

  Tensor empty(const Tensor& like, std::optional<int32_t> dtype = std::nullopt) const {
    if (!batched) return empty_strided(like, {c, h, w}, {h * w, w, 1}, dtype);
    if (channels_last) return empty_strided(like, {n, c, h, w}, {c * h * w, 1, w * c, c}, dtype);
    return empty_strided(like, {n, c, h, w}, {c * h * w, h * w, w, 1}, dtype);
  }
  // The tensor itself if it is dense in this format, else a copy that is.
  Tensor dense(const Tensor& t) const {
    if (!channels_last) return torchext::dense(t);
    const int64_t strides[] = {c * h * w, 1, w * c, c};
    for (int64_t i = 0; i < 4; ++i)
      if (t.size(i) != 1 && t.stride(i) != strides[i])
        return torch::stable::contiguous(t, torch::headeronly::MemoryFormat::ChannelsLast);
    return t;
  }
  int64_t planes() const { return channels_last ? n : n * c; }
  int64_t channels() const { return channels_last ? c : 1; }
};

template <class Backend>
std::tuple<Tensor, Tensor> max_pool2d(const Tensor& x_, bool channels_last, bool want_offsets, int64_t oh, int64_t ow,
                                      int64_t kh, int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw,
                                      int64_t dh, int64_t dw) {
  const int64_t dim = x_.dim();
  require((dim == 4 || dim == 3) && (dim == 4 || !channels_last), "max_pool2d: expected x [n, c, h, w] or [c, h, w]");
  require(kh > 0 && kw > 0 && kh * kw <= kMaxTaps && sh > 0 && sw > 0 && ph >= 0 && pw >= 0 && dh > 0 && dw > 0,
          "max_pool2d: expected a window of 1 to ", kMaxTaps,
          " taps, positive strides and dilations, no negative padding");
  const Maps in(x_, x_.size(dim - 2), x_.size(dim - 1), channels_last), out(x_, oh, ow, channels_last);
  require((oh - 1) * sh - ph < in.h && (ow - 1) * sw - pw < in.w, "max_pool2d: a window begins beyond x");
  const PoolShape s{in.planes(), in.channels(), in.h, in.w, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw};
  const Tensor x = in.dense(x_);
  Tensor y = out.empty(x),
         offsets = want_offsets ? out.empty(x, aoti_torch_dtype_uint8()) : empty(x, {0}, aoti_torch_dtype_uint8());
  dispatch_float(x, "max_pool2d", [&]<typename T>() {
    Backend::template max_pool2d<T>(ptr<T>(y), want_offsets ? ptr<uint8_t>(offsets) : nullptr, ptr<T>(x), s, x);
  });
  return {y, offsets};
}

template <class Backend>
Tensor max_pool2d_backward(const Tensor& dy, const Tensor& offsets, bool channels_last, int64_t h, int64_t w,
                           int64_t kh, int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw, int64_t dh,
                           int64_t dw) {
  const int64_t dim = offsets.dim();
  require(dy.dim() == dim && (dim == 4 || (dim == 3 && !channels_last)),
          "max_pool2d_backward: expected dy and offsets [n, c, oh, ow] or [c, oh, ow]");
  for (int64_t i = 0; i < dim; ++i)
    require(dy.size(i) == offsets.size(i), "max_pool2d_backward: expected dy and offsets of one shape");
  const Maps in(dy, h, w, channels_last), out(dy, dy.size(dim - 2), dy.size(dim - 1), channels_last);
  const PoolShape s{in.planes(), in.channels(), h, w, out.h, out.w, kh, kw, sh, sw, ph, pw, dh, dw};
  const Tensor g = out.dense(dy), taps = out.dense(offsets);
  Tensor dx = in.empty(g);
  dispatch_float(g, "max_pool2d_backward", [&]<typename T>() {
    Backend::template max_pool2d_backward<T>(ptr<T>(dx), ptr<T>(g), ptr<uint8_t>(taps), s, g);
  });
  return dx;
}

template <class Backend>
Tensor max_pool2d_indices(const Tensor& offsets, bool channels_last, int64_t w, int64_t kh, int64_t kw, int64_t sh,
                          int64_t sw, int64_t ph, int64_t pw, int64_t dh, int64_t dw) {
  const int64_t dim = offsets.dim();
  require(dim == 4 || (dim == 3 && !channels_last),
          "max_pool2d_indices: expected offsets [n, c, oh, ow] or [c, oh, ow]");
  const Maps out(offsets, offsets.size(dim - 2), offsets.size(dim - 1), channels_last);
  const PoolShape s{out.planes(), out.channels(), 0, w, out.h, out.w, kh, kw, sh, sw, ph, pw, dh, dw};
  const Tensor taps = out.dense(offsets);
  Tensor indices = out.empty(taps, aoti_torch_dtype_int64());
  Backend::max_pool2d_indices(ptr<int64_t>(indices), ptr<uint8_t>(taps), s, taps);
  return indices;
}

template <class Backend>
void implement(Library& m) {
  m.impl(OVERLOAD("max_pool2d"), TORCH_BOX(&max_pool2d<Backend>));
  m.impl(OVERLOAD("max_pool2d_backward"), TORCH_BOX(&max_pool2d_backward<Backend>));
  m.impl(OVERLOAD("max_pool2d_indices"), TORCH_BOX(&max_pool2d_indices<Backend>));
}
REGISTER(implement)
}  // namespace
}  // namespace torchext
