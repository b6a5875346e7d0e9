// linear's product with its depth whole and in pieces, and the mask with its sums over rows.
#include "cuda/linear_relu.cu"
#include "mutations.h"

using namespace torchext;
using namespace torchext::cuda;
using namespace mutations;
using T = ELEMENT;

void calls() {
  for (const auto [m, k, n] : {LinearShape{64, 256, 64}, {60, 124, 50}, {130, 104, 130}}) {
    const MatmulShape s{m, n, k, k, 1, 1, k};
    const auto a = random<T>(m * k), b = random<T>(n * k);
    auto c = result<T>(m * n);
    auto pieces = result<acc_t<T>>(matmul_scratch_size<T>(s));
    matmul<T>(c.data(), a.data(), b.data(), nullptr, Epilogue::kNone, false, s, pieces.data(), nullptr);
    note(c);
  }
  const int64_t m = 200, n = 64;
  const auto dy = random<T>(m * n), y = random<T>(m * n);
  auto dz = result<T>(m * n), db = result<T>(n);
  auto sums = result<acc_t<T>>(relu_backward_scratch_size<T>(m, n));
  relu_backward<T>(dz.data(), db.data(), dy.data(), y.data(), m, n, sums.data(), nullptr);
  note(dz), note(db);
}
