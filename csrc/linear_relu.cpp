// linear and linear_relu, glue: allocate once, then hand raw pointers to the backend.
#include "linear_relu.h"

#include "cpu/scratch.h"
#include "glue.h"
#include "onednn.h"
#include "tf32.h"

namespace torchext {
namespace {
// Up to this many multiply-adds our own product is the faster one: a BLAS spends 10 us a call on finding its kernel.
constexpr int64_t kOwnProduct = 1 << 21;
constexpr int64_t kProductsPerElement = 8;  // multiply-adds that take as long as streaming one element

// c = a b + bias, then max(., 0) if relu.
template <typename T>
void own_product(T* c, const T* a, const T* b, const T* bias, bool relu, MatmulShape s) {
  cpu::Scratch<acc_t<T>> packed(cpu::matmul_pack_size<T>(s));
  cpu::matmul_pack<T>(packed, b, s);
  parallel_for(0, s.m, grain(s.n * s.k / kProductsPerElement),
               [&](int64_t row0, int64_t row1) { cpu::matmul<T>(c, a, packed, bias, relu, s, row0, row1); });
}

bool small(LinearShape s) { return s.m * s.n * s.k <= kOwnProduct; }

// Rows are summed in kBlock pieces and the pieces in order: the result does not depend on the number of threads.
template <typename T>
void mask(T* dz, T* db, const T* dy, const T* y, int64_t m, int64_t n) {
  using A = acc_t<T>;
  constexpr int64_t kBlock = 512;
  const int64_t blocks = (m + kBlock - 1) / kBlock;
  cpu::Scratch<A> sums(db ? (blocks + 1) * n : 0);
  std::fill_n(static_cast<A*>(sums), db ? (blocks + 1) * n : 0, A(0));
  parallel_for(0, blocks, grain(kBlock * n), [&](int64_t block0, int64_t block1) {
    for (int64_t i = block0; i < block1; ++i)
      cpu::relu_backward<T>(dz, db ? sums + (i + 1) * n : nullptr, dy, y, n, i * kBlock, std::min(m, (i + 1) * kBlock));
  });
  if (!db) return;
  for (int64_t i = 1; i <= blocks; ++i)
    for (int64_t j = 0; j < n; ++j) sums[j] += sums[i * n + j];
  std::copy_n(static_cast<A*>(sums), n, db);
}

struct Cpu {
  // Whether backward writes into tensors it is given, or allocates its results itself.
  static bool fills(LinearShape s) { return small(s); }

  static Tensor forward(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, bool relu, LinearShape s) {
    if (!small(s)) return blas(x, w, b, relu);
    Tensor y = empty(x, {s.m, s.n});
    dispatch_float(x, "linear", [&]<typename T>() {
      own_product<T>(ptr<T>(y), ptr<T>(x), ptr<T>(w), ptr<T>(b), relu, {s.m, s.n, s.k, s.k, 1, 1, s.k});
    });
    return y;
  }

  // y masks dy, if there is one; dx, dw and db are null where not wanted.
  static void backward(Tensor* dx, Tensor* dw, Tensor* db, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor* y, LinearShape s) {
    Tensor dz = y && !small(s) ? empty(dy, {s.m, s.n}) : dy;
    dispatch_float(dy, "linear_backward", [&]<typename T>() {
      cpu::Scratch<T> scratch(y && small(s) ? s.m * s.n : 0);
      T* masked = !y ? nullptr : small(s) ? static_cast<T*>(scratch) : ptr<T>(dz);
      if (y || db) mask<T>(masked, db ? ptr<T>(*db) : nullptr, ptr<T>(dy), y ? ptr<T>(*y) : nullptr, s.m, s.n);
      if (!small(s)) return;
      const T* g = y ? masked : ptr<T>(dy);
      if (dx) own_product<T>(ptr<T>(*dx), g, ptr<T>(w), nullptr, false, {s.m, s.k, s.n, s.n, 1, s.k, 1});
      if (dw) own_product<T>(ptr<T>(*dw), g, ptr<T>(x), nullptr, false, {s.n, s.k, s.m, 1, s.n, s.k, 1});
    });
    if (small(s)) return;
    auto t = [](const Tensor& a) { return torch::stable::transpose(a, 0, 1); };
    if (dx) *dx = blas(dz, t(w), std::nullopt, false);
    if (dw) *dw = blas(t(dz), t(x), std::nullopt, false);
  }

  // x w^T + b, then max(., 0) if relu, by oneDNN or, where that is not to be had, by torch's BLAS. ReLU is a pass of
  // our own: oneDNN's turns NaN into 0.
  static Tensor blas(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, bool relu) {
    const int64_t m = x.size(0), n = w.size(0);
    const bool adds_bias = x.scalar_type() == ScalarType::Float && onednn::has_linear();
    Tensor y = adds_bias ? onednn::linear(x, w, b) : empty(x, {m, n});
    if (!adds_bias)
      TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(y.get(), x.get(), torch::stable::transpose(w, 0, 1).get()));
    if (!relu && (!b || adds_bias)) return y;
    dispatch_float(y, "linear", [&]<typename T>() {
      const T* bias = adds_bias ? nullptr : ptr<T>(b);
      parallel_for(0, m, grain(n),
                   [&](int64_t row0, int64_t row1) { cpu::bias_relu(ptr<T>(y), bias, relu, n, row0, row1); });
    });
    return y;
  }
};

// On a GPU, and on the CPU as the `.simt` overloads.
struct Cuda {
  static bool fills(LinearShape) { return true; }

  static Tensor forward(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, bool relu, LinearShape s) {
    const OnDevice on(x);
    Tensor y = empty(x, {s.m, s.n});
    dispatch_float(x, "linear", [&]<typename T>() {
      product<T>(y, ptr<T>(x), ptr<T>(w), ptr<T>(b), relu, {s.m, s.n, s.k, s.k, 1, 1, s.k}, on);
    });
    return y;
  }

  static void backward(Tensor* dx, Tensor* dw, Tensor* db, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor* y, LinearShape s) {
    const OnDevice on(x);
    Tensor dz = y ? empty(dy, {s.m, s.n}) : dy;
    dispatch_float(dy, "linear_backward", [&]<typename T>() {
      if (y || db) {
        auto sums = accumulators<T>(dy, db ? cuda::relu_backward_scratch_size<T>(s.m, s.n) : 0);
        cuda::relu_backward<T>(y ? ptr<T>(dz) : nullptr, db ? ptr<T>(*db) : nullptr, ptr<T>(dy),
                               y ? ptr<T>(*y) : nullptr, s.m, s.n, ptr<acc_t<T>>(sums), on.stream());
      }
      const T* g = ptr<T>(std::as_const(dz));
      if (dx) product<T>(*dx, g, ptr<T>(w), nullptr, false, {s.m, s.k, s.n, s.n, 1, s.k, 1}, on);
      if (dw) product<T>(*dw, g, ptr<T>(x), nullptr, false, {s.n, s.k, s.m, 1, s.n, s.k, 1}, on);
    });
  }

  template <typename T>
  static void product(Tensor& c, const T* a, const T* b, const T* bias, bool relu, MatmulShape s, const OnDevice& on) {
    auto pieces = accumulators<T>(c, cuda::matmul_scratch_size<T>(s));
    const bool tf32 = std::is_same_v<T, float> && allow_tf32();
    cuda::matmul<T>(ptr<T>(c), a, b, bias, relu, tf32, s, ptr<acc_t<T>>(pieces), on.stream());
  }
};

template <class Backend, bool kRelu>
Tensor linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) {
  require(x.dim() == 2 && w.dim() == 2 && x.size(1) == w.size(1), "linear: expected x [m, k] and w [n, k] with one k");
  return Backend::forward(dense(x), dense(w), dense(b), kRelu, {x.size(0), x.size(1), w.size(0)});
}

// y is linear_relu's result, and masks dy; without it this is linear's backward. What is not wanted comes back empty.
template <class Backend>
std::tuple<Tensor, Tensor, Tensor> linear_backward(const Tensor& dy, const Tensor& x, const Tensor& w,
                                                   const std::optional<Tensor>& y, bool want_dx, bool want_dw,
                                                   bool want_db) {
  const LinearShape s{x.size(0), x.size(1), w.size(0)};
  auto result = [&](bool own, Sizes sizes) { return own ? empty(x, sizes) : empty(x, {0}); };
  const bool fills = Backend::fills(s);
  Tensor dx = result(want_dx && fills, {s.m, s.k}), dw = result(want_dw && fills, {s.n, s.k});
  Tensor db = result(want_db, {s.n});
  const std::optional<Tensor> mask = dense(y);
  Backend::backward(want_dx ? &dx : nullptr, want_dw ? &dw : nullptr, want_db ? &db : nullptr, dense(dy), dense(x),
                    dense(w), mask ? &*mask : nullptr, s);
  return {dx, dw, db};
}

template <class Backend>
void implement(Library& m) {
  m.impl(OVERLOAD("linear"), TORCH_BOX((&linear<Backend, false>)));
  m.impl(OVERLOAD("linear_relu"), TORCH_BOX((&linear<Backend, true>)));
  m.impl(OVERLOAD("linear_backward"), TORCH_BOX(&linear_backward<Backend>));
}
REGISTER(implement)
}  // namespace
}  // namespace torchext
