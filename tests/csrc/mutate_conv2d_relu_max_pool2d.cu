// The direct kernels: filters staged once and in parts, several tiles per block, several threads per tap, windows that
// overlap.
#include "cuda/conv2d_relu_max_pool2d.cu"
#include "mutations.h"

using namespace torchext;
using namespace torchext::cuda;
using namespace mutations;
using T = ELEMENT;

void run(int64_t n, int64_t c, int64_t h, int64_t k, int64_t r, ConvPool pool) {
  const int64_t q = h - r + 1;
  const ConvShape s{.n = n, .c = c, .h = h, .w = h, .k = k, .r = r, .s = r, .p = q, .q = q,
                    .sh = 1, .sw = 1, .ph = 0, .pw = 0, .dh = 1, .dw = 1, .groups = 1, .channels_last = false};
  pool.p = pool.q = (q - pool.kh) / pool.sh + 1;
  const auto x = random<T>(n * c * h * h), w = random<T>(k * c * r * r), b = random<T>(k);
  const int64_t size = n * k * pool.p * pool.q;
  const auto dy = random<T>(size);
  auto y = result<T>(size), dx = result<T>(x.size()), dw = result<T>(w.size()), db = result<T>(k);
  auto offsets = result<uint8_t>(size);
  conv2d_relu_max_pool2d<T>(y.data(), offsets.data(), x.data(), w.data(), b.data(), s, pool, nullptr);
  note(y), note(offsets);
  for (uint8_t& tap : offsets)  // whatever a mutant wrote: a tap, or none
    if (tap >= pool.kh * pool.kw) tap = kDead;
  auto sums = result<acc_t<T>>(conv2d_relu_max_pool2d_backward_scratch_size<T>(s, pool));
  conv2d_relu_max_pool2d_backward<T>(
      {dx.data(), dw.data(), db.data(), sums.data(), dy.data(), offsets.data(), x.data(), w.data()}, s, pool, nullptr);
  note(dx), note(dw), note(db);
}

void calls() {
  run(20, 16, 10, 8, 3, {2, 2, 2, 2});
  run(1, 96, 8, 8, 5, {2, 2, 2, 2});
  run(20, 3, 20, 6, 3, {3, 3, 2, 2});
}
