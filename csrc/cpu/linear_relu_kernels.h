// What goes over y or dy once beside the products.
#include "gemm.h"

namespace torchext::cpu::ISA {

// ReLU's mask and the bias gradient in one pass: read dy and y once, write dz once; the sums stay in L1.
template <typename T>
void relu_backward(T* dz, acc_t<T>* db, const T* dy, const T* y, int64_t n, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  for (int64_t i = row0 * n; i < row1 * n; i += n) {
    auto lanes = [&](int64_t j, auto... first) {  // all, or the first so many
      Vec<A> g = load(dy + i + j, first...);
      if (y) g = load(y + i + j, first...) <= 0 ? Vec<A>{} : g;
      if (dz) store(dz + i + j, g, first...);
      if (db) store<A>(db + j, load<A>(db + j, first...) + g, first...);
    };
    int64_t j = 0;
    for (; j + L <= n; j += L) lanes(j);
    if (j < n) lanes(j, n - j);
  }
}

template <typename T>
void bias_epilogue(T* y, const T* bias, Epilogue epilogue, int64_t n, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  for (int64_t i = row0; i < row1; ++i)
    for (int64_t j = 0; j < n; j += L) {
      const int64_t count = std::min<int64_t>(L, n - j);
      auto lanes = [&](auto... first) {
        Vec<A> v = load(y + i * n + j, first...);
        if (bias) v += load(bias + j, first...);
        store(y + i * n + j, apply(epilogue, v), first...);
      };
      if (count == L)
        lanes();
      else
        lanes(count);
    }
}

template <typename T>
inline constexpr LinearKernels<T> kLinearKernels{
    .matmul = matmul<T>, .bias_epilogue = bias_epilogue<T>, .relu_backward = relu_backward<T>};
}  // namespace torchext::cpu::ISA
