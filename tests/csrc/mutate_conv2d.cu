// conv2d and its gradients in both memory formats, at 5, 7 and 9 steps of the depth, or 3, 4 and 5 of 16-bit elements:
// in one of these the last of the 3 or 4 stages to be read is the first, which the epilogue overwrites.
#include "cuda/conv2d.cu"
#include "mutations.h"

using namespace torchext;
using namespace torchext::cuda;
using namespace mutations;
using T = ELEMENT;

void calls() {
  for (const int64_t c : {8, 12, 16})
    for (const bool last : {false, true}) {
      const int64_t n = 2, h = 9, k = 64, y_size = n * k * h * h, x_size = n * c * h * h, w_size = k * c * 9;
      const ConvShape s{.n = n, .c = c, .h = h, .w = h, .k = k, .r = 3, .s = 3, .p = h, .q = h,
                        .sh = 1, .sw = 1, .ph = 1, .pw = 1, .dh = 1, .dw = 1, .groups = 1, .channels_last = last};
      const auto x = random<T>(x_size), w = random<T>(w_size), b = random<T>(k), dz = random<T>(y_size);
      auto y = result<T>(y_size), dx = result<T>(x_size), dw = result<T>(w_size);
      auto pieces = result<acc_t<T>>(conv2d_scratch_size<T>(s, {true, true, true, false}));
      conv2d<T>(y.data(), x.data(), w.data(), b.data(), Epilogue::kRelu, false, s, pieces.data(), nullptr);
      conv2d_backward<T>(dx.data(), dw.data(), dz.data(), x.data(), w.data(), false, s, pieces.data(), nullptr);
      note(y), note(dx), note(dw);
    }
}
