// linear and linear_relu, glue: allocate once, then hand raw pointers to the backend.
#include "linear_relu.h"

#include "cpu/scratch.h"
#include "glue/cuda_product.h"
#include "glue/onednn.h"
#include "glue/torch.h"

namespace torchext {
namespace {
// c = a b + bias, then the epilogue: in one piece a thread, as nearly square as the threads divide.
template <typename T>
void own_product(T* c, const T* a, const T* b, const T* bias, Epilogue epilogue, MatmulShape s) {
  constexpr int64_t kWork = 1 << 18;           // multiply-adds worth waking a second thread for
  constexpr int64_t kRows = 8, kColumns = 48;  // what tiles and panels of every instruction set about divide
  const int64_t work = s.m * s.n * s.k / kWork;
  const int64_t threads = work < 2 ? 1 : std::min<int64_t>(work, torch::stable::get_num_threads());
  int64_t across = 1;
  for (int64_t i = 2; i <= threads; ++i)
    if (threads % i == 0 && s.m * i / threads + s.n / i < s.m * across / threads + s.n / across) across = i;
  auto piece = [](int64_t size, int64_t pieces, int64_t whole) {
    return ((size + pieces - 1) / pieces + whole - 1) / whole * whole;
  };
  const int64_t rows = piece(s.m, threads / across, kRows), columns = piece(s.n, across, kColumns);
  const auto& kernels = cpu::linear_kernels<T>();
  parallel_for(0, threads, 1, [&](int64_t piece0, int64_t piece1) {
    for (int64_t i = piece0; i < piece1; ++i) {
      const int64_t i0 = i / across * rows, j0 = i % across * columns;
      kernels.matmul(c, a, b, bias, epilogue, s, {i0, std::min(s.m, i0 + rows), j0, std::min(s.n, j0 + columns)});
    }
  });
}

// Rows are summed in kBlock pieces and the pieces in order: the result does not depend on the number of threads.
template <typename T>
void mask(T* dz, T* db, const T* dy, const T* y, int64_t m, int64_t n) {
  using A = acc_t<T>;
  constexpr int64_t kBlock = 512;
  const int64_t blocks = (m + kBlock - 1) / kBlock;
  cpu::Scratch<A> sums(db ? (blocks + 1) * n : 0);
  std::fill_n(static_cast<A*>(sums), db ? (blocks + 1) * n : 0, A(0));
  const auto& kernels = cpu::linear_kernels<T>();
  parallel_for(0, blocks, grain(kBlock * n), [&](int64_t block0, int64_t block1) {
    for (int64_t i = block0; i < block1; ++i)
      kernels.relu_backward(dz, db ? sums + (i + 1) * n : nullptr, dy, y, n, i * kBlock, std::min(m, (i + 1) * kBlock));
  });
  if (!db) return;
  for (int64_t i = 1; i <= blocks; ++i)
    for (int64_t j = 0; j < n; ++j) sums[j] += sums[i * n + j];
  std::copy_n(static_cast<A*>(sums), n, db);
}

// x w^T + b, then the epilogue; x: [m, k] and w: [n, k] by any strides, one of them 1.
template <typename T>
void own_product(Tensor& y, const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, Epilogue epilogue) {
  own_product<T>(ptr<T>(y), ptr<T>(x), ptr<T>(w), ptr<T>(b), epilogue,
                 {.m = x.size(0),
                  .n = w.size(0),
                  .k = x.size(1),
                  .a_row = x.stride(0),
                  .a_col = x.stride(1),
                  .b_row = w.stride(1),
                  .b_col = w.stride(0)});
}

struct Cpu {
  // Whether backward writes into tensors it is given, or allocates its results itself.
  static bool fills(LinearAlgorithm algorithm) { return algorithm == LinearAlgorithm::kNative; }
  static Tensor operand(const Tensor& t) { return t.stride(0) == 1 || t.stride(1) == 1 ? t : dense(t); }

  static Tensor forward(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, Epilogue epilogue,
                        LinearShape s, LinearAlgorithm algorithm) {
    if (algorithm == LinearAlgorithm::kLibrary) return library(x, w, b, epilogue);
    Tensor y = empty(x, {s.m, s.n});
    dispatch_float(x, "linear", [&]<typename T>() { own_product<T>(y, x, w, b, epilogue); });
    return y;
  }

  // y masks dy, if there is one; dx, dw and db are null where not wanted.
  static void backward(Tensor* dx, Tensor* dw, Tensor* db, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor* y, LinearShape s, LinearAlgorithm algorithm) {
    const bool own = fills(algorithm);
    Tensor dz = y && !own ? empty(dy, {s.m, s.n}) : dy;
    dispatch_float(dy, "linear_backward", [&]<typename T>() {
      cpu::Scratch<T> scratch(y && own ? s.m * s.n : 0);
      T* masked = !y ? nullptr : own ? static_cast<T*>(scratch) : ptr<T>(dz);
      if (y || db) mask<T>(masked, db ? ptr<T>(*db) : nullptr, ptr<T>(dy), y ? ptr<T>(*y) : nullptr, s.m, s.n);
      if (!own) return;
      const T* g = y ? masked : ptr<T>(dy);
      if (dx)
        own_product<T>(
            ptr<T>(*dx), g, ptr<T>(w), nullptr, Epilogue::kNone,
            {.m = s.m, .n = s.k, .k = s.n, .a_row = s.n, .a_col = 1, .b_row = w.stride(0), .b_col = w.stride(1)});
      if (dw)
        own_product<T>(
            ptr<T>(*dw), g, ptr<T>(x), nullptr, Epilogue::kNone,
            {.m = s.n, .n = s.k, .k = s.m, .a_row = 1, .a_col = s.n, .b_row = x.stride(0), .b_col = x.stride(1)});
    });
    if (own) return;
    auto t = [](const Tensor& a) { return torch::stable::transpose(a, 0, 1); };
    if (dx) *dx = library(dz, t(w), std::nullopt, Epilogue::kNone);
    if (dw) *dw = library(t(dz), t(x), std::nullopt, Epilogue::kNone);
  }

  // x w^T + b, then the epilogue, by oneDNN or, where that is not to be had, by torch's BLAS. The epilogue is a
  // pass of our own: oneDNN's ReLU turns NaN into 0.
  static Tensor library(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, Epilogue epilogue) {
    const int64_t m = x.size(0), n = w.size(0);
    const bool adds_bias = x.scalar_type() == ScalarType::Float && onednn::has_linear();
    Tensor y = adds_bias ? onednn::linear(x, w, b) : empty(x, {m, n});
    if (!adds_bias)
      TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(y.get(), x.get(), torch::stable::transpose(w, 0, 1).get()));
    if (epilogue == Epilogue::kNone && (!b || adds_bias)) return y;
    dispatch_float(y, "linear", [&]<typename T>() {
      const T* bias = adds_bias ? nullptr : ptr<T>(b);
      const auto& kernels = cpu::linear_kernels<T>();
      parallel_for(0, m, grain(n), [&](int64_t row0, int64_t row1) {
        kernels.bias_epilogue(ptr<T>(y), bias, epilogue, n, row0, row1);
      });
    });
    return y;
  }
};

// On a GPU, and on the CPU as the `.simt` overloads.
struct Cuda {
  static bool fills(LinearAlgorithm) { return true; }
  static Tensor operand(const Tensor& t) { return dense(t); }

  static Tensor forward(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, Epilogue epilogue,
                        LinearShape s, LinearAlgorithm) {
    const OnDevice on(x);
    Tensor y = empty(x, {s.m, s.n});
    dispatch_float(x, "linear", [&]<typename T>() {
      cuda_product<T>(ptr<T>(y), ptr<T>(x), ptr<T>(w), ptr<T>(b), epilogue,
                      {.m = s.m, .n = s.n, .k = s.k, .a_row = s.k, .a_col = 1, .b_row = 1, .b_col = s.k}, x, on);
    });
    return y;
  }

  static void backward(Tensor* dx, Tensor* dw, Tensor* db, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor* y, LinearShape s, LinearAlgorithm) {
    const OnDevice on(x);
    const bool masks = y && (dx || dw);
    Tensor dz = masks ? empty(dy, {s.m, s.n}) : dy;
    dispatch_float(dy, "linear_backward", [&]<typename T>() {
      if (masks || db) {
        auto sums = accumulators<T>(dy, db ? cuda::relu_backward_scratch_size<T>(s.m, s.n) : 0);
        cuda::relu_backward<T>(masks ? ptr<T>(dz) : nullptr, db ? ptr<T>(*db) : nullptr, ptr<T>(dy),
                               y ? ptr<T>(*y) : nullptr, s.m, s.n, ptr<acc_t<T>>(sums), on.stream());
      }
      const T* g = ptr<T>(std::as_const(dz));
      if (dx)
        cuda_product<T>(ptr<T>(*dx), g, ptr<T>(w), nullptr, Epilogue::kNone,
                        {.m = s.m, .n = s.k, .k = s.n, .a_row = s.n, .a_col = 1, .b_row = s.k, .b_col = 1}, x, on);
      if (dw)
        cuda_product<T>(ptr<T>(*dw), g, ptr<T>(x), nullptr, Epilogue::kNone,
                        {.m = s.n, .n = s.k, .k = s.m, .a_row = 1, .a_col = s.n, .b_row = s.k, .b_col = 1}, x, on);
    });
  }
};

template <class Backend, Epilogue kEpilogue>
Tensor linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, int64_t algorithm) {
  require(x.dim() == 2 && w.dim() == 2 && x.size(1) == w.size(1), "linear: expected x [m, k] and w [n, k] with one k");
  return Backend::forward(Backend::operand(x), Backend::operand(w), dense(b), kEpilogue,
                          {x.size(0), x.size(1), w.size(0)}, LinearAlgorithm(algorithm));
}

// y is linear_relu's result, and masks dy; without it this is linear's backward. What is not wanted comes back empty.
template <class Backend>
std::tuple<Tensor, Tensor, Tensor> linear_backward(const Tensor& dy, const Tensor& x, const Tensor& w,
                                                   const std::optional<Tensor>& y, int64_t algorithm, bool want_dx,
                                                   bool want_dw, bool want_db) {
  const LinearShape s{x.size(0), x.size(1), w.size(0)};
  auto result = [&](bool own, Sizes sizes) { return own ? empty(x, sizes) : empty(x, {0}); };
  const bool fills = Backend::fills(LinearAlgorithm(algorithm));
  Tensor dx = result(want_dx && fills, {s.m, s.k}), dw = result(want_dw && fills, {s.n, s.k});
  Tensor db = result(want_db, {s.n});
  const std::optional<Tensor> mask = dense(y);
  Backend::backward(want_dx ? &dx : nullptr, want_dw ? &dw : nullptr, want_db ? &db : nullptr, dense(dy),
                    Backend::operand(x), Backend::operand(w), mask ? &*mask : nullptr, s, LinearAlgorithm(algorithm));
  return {dx, dw, db};
}

template <class Backend>
void implement(Library& m) {
  m.impl(OVERLOAD("linear"), TORCH_BOX((&linear<Backend, Epilogue::kNone>)));
  m.impl(OVERLOAD("linear_relu"), TORCH_BOX((&linear<Backend, Epilogue::kRelu>)));
  m.impl(OVERLOAD("linear_backward"), TORCH_BOX(&linear_backward<Backend>));
}
REGISTER(implement)
}  // namespace
}  // namespace torchext
