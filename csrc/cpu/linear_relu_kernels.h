// ReLU's mask and the bias gradient in one pass over dy: read dy and y once, write dz once, keep a column of sums in
// registers.
#include "gemm.h"

namespace torchext::cpu::ISA {

template <typename T>
void relu_backward(T* dz, acc_t<T>* db, const T* dy, const T* y, int64_t n, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  for (int64_t j = 0; j < n; j += L) {
    const int64_t count = std::min<int64_t>(L, n - j);
    Vec<A> total{};
    auto column = [&](auto... lanes) {  // no argument: all lanes; otherwise the first `count`
      for (int64_t i = row0; i < row1; ++i) {
        Vec<A> g = load(dy + i * n + j, lanes...);
        if (y) g = load(y + i * n + j, lanes...) <= 0 ? Vec<A>{} : g;
        if (dz) store(dz + i * n + j, g, lanes...);
        total += g;
      }
      if (db) store<A>(db + j, load<A>(db + j, lanes...) + total, lanes...);
    };
    if (count == L)
      column();
    else
      column(count);
  }
}

template <typename T>
void bias_relu(T* y, const T* bias, bool relu, int64_t n, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  for (int64_t i = row0; i < row1; ++i)
    for (int64_t j = 0; j < n; j += L) {
      const int64_t count = std::min<int64_t>(L, n - j);
      auto lanes = [&](auto... first) {
        Vec<A> v = load(y + i * n + j, first...);
        if (bias) v += load(bias + j, first...);
        store(y + i * n + j, relu ? (v < 0 ? Vec<A>{} : v) : v, first...);
      };
      if (count == L)
        lanes();
      else
        lanes(count);
    }
}
}  // namespace torchext::cpu::ISA
