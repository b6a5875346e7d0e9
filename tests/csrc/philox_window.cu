// Runs the steps of dropout's CUDA kernel around element 2^35, where the block number outgrows 32 bits, against
// philox.h's scalar rule.
#include "cuda/dropout.cu"

#include <cstdio>
#include <vector>

namespace torchext::cuda {
template <int kWide>
__global__ void window_kernel(DropoutArguments<float> a, int64_t begin) {
  constexpr int kStep = kGroups<float, kWide> * kGroup;
  const uint64_t seed = threadIdx.x == 0 ? static_cast<uint64_t>(load(a.seed)) : 0;
  for (; begin + kStep <= a.count; begin += kStep) drop<kWide, kGroups<float, kWide>, true>(a, seed, begin);
  for (; begin < a.count; begin += kGroup) drop<kWide, 1, false>(a, seed, begin);
}

template <int kWide>
int wrong() {
  constexpr int64_t kBegin = (int64_t{1} << 35) - 1024, kCount = 2048 + 77, seed = 0x0123456789abcdef;
  const KeepThreshold threshold = keep_threshold(0.3);
  const std::vector<float> x(kCount + 4, 1);
  std::vector<float> y(kCount + 4, -1);
  launch<window_kernel<kWide>>(
      1, 32, 0, nullptr,
      DropoutArguments<float>{y.data() - kBegin, x.data() - kBegin, &seed, threshold, 1, -0.0f, -0.0f, kBegin + kCount},
      kBegin);
  for (int64_t i = 0; i < kCount; ++i) {
    const uint64_t element = static_cast<uint64_t>(kBegin + i);
    const uint32_t draw = philox_draw(seed, element, 0);
    const bool keep = draw < threshold.high || (draw == threshold.high && keep_tie(seed, element, threshold));
    if (y[i] != (keep ? 1.0f : 0.0f)) return std::printf("packs of %d: element 2^35 + %ld\n", kWide, long(i - 1024));
  }
  return y[kCount] != -1;
}
}  // namespace torchext::cuda

int main() { return torchext::cuda::wrong<4>() || torchext::cuda::wrong<1>(); }
