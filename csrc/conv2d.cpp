// conv2d and conv2d_relu, glue. On the CPU: our direct kernel, Winograd's algorithm,
// or oneDNN's convolution and the passes around it.
#include <atomic>

#include "conv2d_winograd.h"
#include "glue/conv2d_direct.h"
#include "glue/onednn.h"
#include "glue/tf32.h"

namespace torchext {
namespace {
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

enum class Algorithm : int64_t { kLibrary, kDirect, kWinograd };  // on the CPU; _conv2d_plan.py chooses
struct ConvOptions {
  Ints stride, padding, dilation;
  int64_t groups;
  Algorithm algorithm;
};
struct Wanted {
  bool dx, dw, db;
};

struct CpuWinograd {
  static bool serves(const Tensor& x, ConvShape s) {
    auto one = [](int64_t a, int64_t b) { return a == 1 && b == 1; };
    return x.scalar_type() == ScalarType::Float && s.n > 0 && (s.r == 3 || s.r == 5) && s.s == s.r && one(s.sh, s.sw) &&
           one(s.dh, s.dw) && s.groups == 1 && std::max(s.ph, s.pw) < s.r && s.c % cpu::kWinogradChannels == 0 &&
           s.k % cpu::kWinogradChannels == 0;
  }
  static WinogradShape shape(ConvShape s) {
    return {.n = s.n,
            .c = s.c,
            .h = s.h,
            .w = s.w,
            .k = s.k,
            .p = s.p,
            .q = s.q,
            .taps = s.r,
            .ph = s.ph,
            .pw = s.pw,
            .channels_last = s.channels_last};
  }
  static WinogradShape dx_shape(ConvShape s) {
    return {.n = s.n,
            .c = s.k,
            .h = s.p,
            .w = s.q,
            .k = s.c,
            .p = s.h,
            .q = s.w,
            .taps = s.r,
            .ph = s.r - 1 - s.ph,
            .pw = s.r - 1 - s.pw,
            .channels_last = s.channels_last};
  }

  // Whether y came out finite.
  static bool conv2d(float* y, WinogradImages x, const float* w, bool flipped, const float* b, Epilogue epilogue,
                     WinogradShape s) {
    const auto& kernels = cpu::winograd_kernels();
    cpu::Scratch<float> u(kernels.weights_size(s));
    parallel_for(0, s.c, grain(s.k * s.taps * s.taps),
                 [&](int64_t c0, int64_t c1) { kernels.weights(u, w, flipped, s, c0, c1); });
    std::atomic<bool> finite = true;
    parallel_for(0, kernels.bands(s), 1, [&](int64_t band0, int64_t band1) {
      if (!kernels.forward(y, x, u, b, epilogue, s, band0, band1)) finite = false;
    });
    return finite;
  }

  // Each part is summed on its own and the parts in order: the sums do not depend on the number of threads.
  static bool weight_gradient(float* dw, float* db, const float* x, WinogradImages dy, WinogradShape s) {
    const auto& kernels = cpu::winograd_kernels();
    const int64_t parts = kernels.parts(s), size = kernels.part_size(s), db_parts = kernels.db_parts(s);
    cpu::Scratch<float> sums(parts * size), db_sums(db ? db_parts * s.k : 0);
    parallel_for(0, parts, 1, [&](int64_t part0, int64_t part1) {
      for (int64_t part = part0; part < part1; ++part)
        kernels.part(sums + part * size, db ? static_cast<float*>(db_sums) : nullptr, x, dy, s, part);
    });
    for (int64_t k = 0; db && k < s.k; ++k) {
      db[k] = 0;
      for (int64_t part = 0; part < db_parts; ++part) db[k] += db_sums[part * s.k + k];
    }
    std::atomic<bool> finite = true;
    parallel_for(0, s.c / cpu::kWinogradChannels, 1, [&](int64_t c0, int64_t c1) {
      if (!kernels.dw(dw, sums, s, c0 * cpu::kWinogradChannels, c1 * cpu::kWinogradChannels)) finite = false;
    });
    return finite;
  }

  // Nothing where the results are not finite: Winograd's NaNs are not at the places of the plain sums'.
  static std::optional<Tensor> forward(const Tensor& x_, const Tensor& w_, const std::optional<Tensor>& b_,
                                       Epilogue epilogue, ConvShape s) {
    const Tensor x = dense(x_, s.channels_last), w = dense(w_);
    const std::optional<Tensor> b = dense(b_);
    Tensor y = empty_image(x, {s.n, s.k, s.p, s.q}, s.channels_last);
    if (!conv2d(ptr<float>(y), {ptr<float>(x), nullptr}, ptr<float>(w), false, ptr<float>(b), epilogue, shape(s)))
      return std::nullopt;
    return y;
  }

  static std::optional<Gradients> backward(const Tensor& dy_, const Tensor& x_, const Tensor& w_,
                                           const std::optional<Tensor>& y_, ConvShape s, Wanted wanted) {
    const bool last = s.channels_last;
    const Tensor dy = dense(dy_, last), x = dense(x_, last), w = dense(w_);
    const auto y = y_ ? std::optional(dense(*y_, last)) : std::nullopt;
    auto none = [&] { return empty(x, {0}); };  // one each: results of an op may not alias
    Tensor dx = wanted.dx ? empty_image(x, {s.n, s.c, s.h, s.w}, last) : none();
    Tensor dw = wanted.dw || wanted.db ? empty_image(x, {s.k, s.c, s.r, s.s}, false) : none();
    Tensor db = wanted.db ? empty(x, {s.k}) : none();
    const WinogradImages dz{ptr<float>(dy), ptr<float>(y)};
    if (wanted.dx && !conv2d(ptr<float>(dx), dz, ptr<float>(w), true, nullptr, Epilogue::kNone, dx_shape(s)))
      return std::nullopt;
    if ((wanted.dw || wanted.db) &&
        !weight_gradient(ptr<float>(dw), wanted.db ? ptr<float>(db) : nullptr, ptr<float>(x), dz, shape(s)))
      return std::nullopt;
    return std::tuple(dx, wanted.dw ? dense(dw, last) : none(), db);
  }
};

struct Cpu : CpuDirect {
  static bool is_direct(const ConvOptions& o) {
    return o.algorithm == Algorithm::kDirect || !onednn::has_convolution();
  }

  static Tensor forward(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, Epilogue epilogue,
                        ConvShape s, const ConvOptions& o) {
    if (o.algorithm == Algorithm::kWinograd && CpuWinograd::serves(x, s))
      if (auto y = CpuWinograd::forward(x, w, b, epilogue, s)) return *y;
    if (is_direct(o)) return std::get<0>(direct<CpuDirect>(x, w, b, epilogue, s, nullptr));
    Tensor y = onednn::convolution(x, w, b, {o.stride, o.padding, o.dilation, o.groups});
    if (epilogue != Epilogue::kNone)
      dispatch_float(y, "conv2d_relu", [&]<typename T>() {
        parallel_for(0, y.numel(), grain(1), [&](int64_t i0, int64_t i1) {
          cpu::conv_kernels<T>().epilogue_pass(ptr<T>(y) + i0, epilogue, i1 - i0);
        });
      });
    return y;
  }

  static Gradients backward(const Tensor& dy, const Tensor& x, const Tensor& w, const std::optional<Tensor>& y,
                            ConvShape s, const ConvOptions& o, Wanted wanted) {
    if (o.algorithm == Algorithm::kWinograd && CpuWinograd::serves(x, s))
      if (auto gradients = CpuWinograd::backward(dy, x, w, y, s, wanted)) return *gradients;
    if (is_direct(o))
      return direct_backward<CpuDirect>(dy, x, w, y, std::nullopt, s, nullptr, wanted.dx, wanted.dw, wanted.db);
    const Tensor dz = y ? mask(dense(dy, s.channels_last), dense(*y, s.channels_last), s) : dy;
    auto [dx, dw, db] = onednn::convolution_backward(dz, x, w, {o.stride, o.padding, o.dilation, o.groups},
                                                     {wanted.dx, wanted.dw, wanted.db});
    auto none = [&] { return empty(x, {0}); };
    return {wanted.dx ? dense(dx, s.channels_last) : none(), wanted.dw ? dense(dw, s.channels_last) : none(),
            wanted.db ? db : none()};
  }

  static Tensor mask(const Tensor& dy, const Tensor& y, ConvShape s) {
    Tensor dz = empty_image(y, {s.n, s.k, s.p, s.q}, s.channels_last);
    dispatch_float(y, "conv2d_backward", [&]<typename T>() {
      parallel_for(0, y.numel(), grain(1), [&](int64_t i0, int64_t i1) {
        cpu::conv_kernels<T>().mask_pass(ptr<T>(dz) + i0, ptr<T>(dy) + i0, ptr<T>(y) + i0, i1 - i0);
      });
    });
    return dz;
  }
};

// On a GPU, and on the CPU as the `.simt` overloads.
struct Cuda {
  static Tensor forward(const Tensor& x_, const Tensor& w_, const std::optional<Tensor>& b_, Epilogue epilogue,
                        ConvShape s, const ConvOptions&) {
    const OnDevice on(x_);
    check(s);
    const Tensor x = dense(x_, s.channels_last), w = dense(w_, s.channels_last);
    const std::optional<Tensor> b = dense(b_);
    Tensor y = empty_image(x, {s.n, s.k, s.p, s.q}, s.channels_last);
    dispatch_float(x, "conv2d", [&]<typename T>() {
      auto scratch = accumulators<T>(x, cuda::conv2d_scratch_size<T>(s, {.y = true}));
      cuda::conv2d<T>(ptr<T>(y), ptr<T>(x), ptr<T>(w), ptr<T>(b), epilogue, tf32<T>(), s, ptr<acc_t<T>>(scratch),
                      on.stream());
    });
    return y;
  }

  static Gradients backward(const Tensor& dy_, const Tensor& x_, const Tensor& w_, const std::optional<Tensor>& y_,
                            ConvShape s, const ConvOptions&, Wanted wanted) {
    const OnDevice on(x_);
    check(s);
    const bool last = s.channels_last;
    const Tensor dy = dense(dy_, last), x = dense(x_, last), w = dense(w_, last);
    const auto y = y_ ? std::optional(dense(*y_, last)) : std::nullopt;
    auto none = [&] { return empty(x, {0}); };  // one each: results of an op may not alias
    Tensor dx = wanted.dx ? empty_image(x, {s.n, s.c, s.h, s.w}, last) : none();
    Tensor dw = wanted.dw ? empty_image(x, {s.k, s.group_c(), s.r, s.s}, last) : none();
    Tensor db = wanted.db ? empty(x, {s.k}) : none();
    const bool masks = y && (wanted.dx || wanted.dw);
    Tensor dz = masks ? empty_image(x, {s.n, s.k, s.p, s.q}, last) : dy;
    dispatch_float(x, "conv2d_backward", [&]<typename T>() {
      auto scratch = accumulators<T>(x, cuda::conv2d_scratch_size<T>(s, {false, wanted.dx, wanted.dw, wanted.db}));
      if (masks || wanted.db)
        cuda::conv2d_mask<T>(masks ? ptr<T>(dz) : nullptr, wanted.db ? ptr<T>(db) : nullptr, ptr<T>(dy), ptr<T>(y), s,
                             ptr<acc_t<T>>(scratch), on.stream());
      cuda::conv2d_backward<T>(wanted.dx ? ptr<T>(dx) : nullptr, wanted.dw ? ptr<T>(dw) : nullptr,
                               ptr<T>(std::as_const(dz)), ptr<T>(x), ptr<T>(w), tf32<T>(), s, ptr<acc_t<T>>(scratch),
                               on.stream());
    });
    return {dx, dw, db};
  }

 private:
  template <typename T>
  static bool tf32() {
    return std::is_same_v<T, float> && allow_tf32("conv");
  }
  static void check(ConvShape s) {
    constexpr int64_t kSide = 1 << 30;  // places in an image are 32 bits
    require(s.h + 2 * s.ph < kSide && s.w + 2 * s.pw < kSide, "conv2d: a padded image has 2^30 rows or columns");
  }
};

template <class Backend, Epilogue kEpilogue>
Tensor conv2d(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, Ints stride, Ints padding,
              Ints dilation, int64_t groups, int64_t algorithm) {
  const ConvShape s = conv_shape(x, w, stride, padding, dilation, groups);
  return Backend::forward(x, w, b, kEpilogue, s, {stride, padding, dilation, groups, Algorithm(algorithm)});
}

// y is conv2d_relu's result, and masks dy; without it this is conv2d's backward. What is not wanted comes back empty.
template <class Backend>
Gradients conv2d_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const std::optional<Tensor>& y,
                          Ints stride, Ints padding, Ints dilation, int64_t groups, int64_t algorithm, bool want_dx,
                          bool want_dw, bool want_db) {
  const ConvShape s = conv_shape(x, w, stride, padding, dilation, groups);
  return Backend::backward(dy, x, w, y, s, {stride, padding, dilation, groups, Algorithm(algorithm)},
                           {want_dx, want_dw, want_db});
}

template <class Backend>
void implement(Library& m) {
  m.impl(OVERLOAD("conv2d"), TORCH_BOX((&conv2d<Backend, Epilogue::kNone>)));
  m.impl(OVERLOAD("conv2d_relu"), TORCH_BOX((&conv2d<Backend, Epilogue::kRelu>)));
  m.impl(OVERLOAD("conv2d_backward"), TORCH_BOX(&conv2d_backward<Backend>));
}
REGISTER(implement)
}  // namespace
}  // namespace torchext
