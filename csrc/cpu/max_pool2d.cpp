#include "../max_pool2d.h"

#define KERNELS "max_pool2d_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
const PoolKernels<T>& pool_kernels() {
  return CHOOSE_ISA(kPoolKernels<T>);
}
template const PoolKernels<double>& pool_kernels();
template const PoolKernels<float>& pool_kernels();
template const PoolKernels<BFloat16>& pool_kernels();
template const PoolKernels<Half>& pool_kernels();

void max_pool2d_indices(int64_t* indices, const uint8_t* offsets, PoolShape s, int64_t row0, int64_t row1) {
  int64_t from_first_tap[kMaxTaps];
  for (int64_t tap = 0; tap < s.kh * s.kw; ++tap) from_first_tap[tap] = tap / s.kw * s.dh * s.w + tap % s.kw * s.dw;
  auto not_before = [](int64_t at, int64_t dilation) {
    return at < 0 ? at + (-at + dilation - 1) / dilation * dilation : at;
  };
  for (int64_t row = row0; row < row1; ++row)
    for (int64_t j = 0; j < s.ow; ++j) {
      const int64_t at = (row * s.ow + j) * s.channels;
      const int64_t p = row % s.oh * s.sh - s.ph, q = j * s.sw - s.pw;
      for (int64_t c = at; c < at + s.channels; ++c)
        indices[c] = offsets[c] == kDead ? not_before(p, s.dh) * s.w + not_before(q, s.dw)
                                         : p * s.w + q + from_first_tap[offsets[c]];
    }
}
}  // namespace torchext::cpu
