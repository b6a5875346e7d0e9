// linear and linear_relu, glue: allocate once, then hand raw pointers to the backend.
#include "linear_relu.h"

#include "cpu/scratch.h"
#include "glue.h"
#include "onednn.h"

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

struct Cpu {
  // x w^T + b by whichever product suits the size; either operand may be a transposed view, dense underneath.
  static Tensor product(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, bool relu) {
    const MatmulShape s{x.size(0), w.size(0), x.size(1), x.stride(0), x.stride(1), w.stride(1), w.stride(0)};
    const bool small = s.m * s.n * s.k <= kOwnProduct;
    if (!small && x.scalar_type() == ScalarType::Float && onednn::has_linear()) return onednn::linear(x, w, b, relu);
    Tensor y = empty(x, {s.m, s.n});
    if (small) {
      dispatch_float(x, "linear", [&]<typename T>() {
        own_product<T>(ptr<T>(y), ptr<T>(x), ptr<T>(w), ptr<T>(b), relu, s);
      });
    } else {
      TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(y.get(), x.get(), torch::stable::transpose(w, 0, 1).get()));
      if (b || relu) bias_relu(y, b, relu);
    }
    return y;
  }

  static void bias_relu(Tensor& y, const std::optional<Tensor>& b, bool relu) {
    const int64_t m = y.size(0), n = y.size(1);
    dispatch_float(y, "linear", [&]<typename T>() {
      parallel_for(0, m, grain(n),
                   [&](int64_t row0, int64_t row1) { cpu::bias_relu(ptr<T>(y), ptr<T>(b), relu, n, row0, row1); });
    });
  }

  // dz = dy masked by y > 0, or dy itself without y; db its column sums. Rows are summed in kBlock pieces and the pieces in order,
  // so that the result does not depend on the number of threads.
  static Tensor mask(const Tensor& dy, const std::optional<Tensor>& y, std::optional<Tensor> db) {
    constexpr int64_t kBlock = 512;
    const int64_t m = dy.size(0), n = dy.size(1), blocks = (m + kBlock - 1) / kBlock;
    Tensor dz = y ? empty(dy, {m, n}) : dy;
    if (!y && !db) return dz;
    dispatch_float(dy, "linear_backward", [&]<typename T>() {
      using A = acc_t<T>;
      cpu::Scratch<A> sums(db ? blocks * n : 0);
      std::fill_n(static_cast<A*>(sums), db ? blocks * n : 0, A(0));
      parallel_for(0, blocks, grain(kBlock * n), [&](int64_t block0, int64_t block1) {
        for (int64_t i = block0; i < block1; ++i)
          cpu::relu_backward<T>(y ? ptr<T>(dz) : nullptr, db ? sums + i * n : nullptr, ptr<T>(dy), ptr<T>(y), n, i * kBlock,
                                std::min(m, (i + 1) * kBlock));
      });
      if (!db) return;
      for (int64_t i = 1; i < blocks; ++i)
        for (int64_t j = 0; j < n; ++j) sums[j] += sums[i * n + j];
      for (int64_t j = 0; j < n; ++j) ptr<T>(*db)[j] = static_cast<T>(blocks ? sums[j] : A(0));
    });
    return dz;
  }
};

template <class Backend, bool kRelu>
Tensor linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) {
  require(x.dim() == 2 && w.dim() == 2 && x.size(1) == w.size(1), "linear: expected x [m, k] and w [n, k] with one k");
  return Backend::product(dense(x), dense(w), dense(b), kRelu);
}

// y is linear_relu's result, and masks dy; without it this is linear's backward. What is not wanted comes back empty.
template <class Backend>
std::tuple<Tensor, Tensor, Tensor> linear_backward(const Tensor& dy_, const Tensor& x_, const Tensor& w_,
                                                   const std::optional<Tensor>& y_, bool want_dx, bool want_dw, bool want_db) {
  const Tensor dy = dense(dy_), x = dense(x_), w = dense(w_);
  Tensor db = empty(x, {want_db ? w.size(0) : 0});
  const Tensor dz = Backend::mask(dy, dense(y_), want_db ? std::optional(db) : std::nullopt);
  auto t = [](const Tensor& a) { return torch::stable::transpose(a, 0, 1); };
  return {want_dx ? Backend::product(dz, t(w), std::nullopt, false) : empty(x, {0}),
          want_dw ? Backend::product(t(dz), t(x), std::nullopt, false) : empty(x, {0}), db};
}
}  // namespace
}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, m) {
  using namespace torchext;
  m.impl("linear", TORCH_BOX((&linear<Cpu, false>)));
  m.impl("linear_relu", TORCH_BOX((&linear<Cpu, true>)));
  m.impl("linear_backward", TORCH_BOX(&linear_backward<Cpu>));
}
