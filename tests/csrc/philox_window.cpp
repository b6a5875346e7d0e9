// Runs dropout's kernels on the elements around 2^35, where the block number outgrows 32 bits, against philox.h's
// scalar rule.
#include <cstdio>
#include <vector>

#include "cpu/isa.h"
#include "dropout.h"

int main() {
  using namespace torchext;
  constexpr int64_t kBegin = (int64_t{1} << 35) - 2 * cpu::kDropoutUnit, kCount = 4 * cpu::kDropoutUnit - 5;
  constexpr int64_t seed = 0x0123456789abcdef;
  const DropoutShape s{kBegin + kCount, &seed, 0.3, 1, 0, 0};
  const KeepThreshold threshold = keep_threshold(s.p);
  const std::vector<float> x(kCount, 1);
  for (const char* const* isa = cpu::isa_names(); *isa; ++isa) {
    cpu::use_isa(*isa);
    std::vector<float> y(kCount, -1);
    cpu::dropout_kernels<float>().dropout(y.data() - kBegin, x.data() - kBegin, s, kBegin, kBegin + kCount);
    for (int64_t i = 0; i < kCount; ++i) {
      const uint64_t element = static_cast<uint64_t>(kBegin + i);
      const uint32_t draw = philox_draw(seed, element, 0);
      const bool keep = draw < threshold.high || (draw == threshold.high && keep_tie(seed, element, threshold));
      if (y[i] != (keep ? 1.0f : 0.0f))
        return std::printf("%s: element 2^35 + %ld\n", *isa, long(kBegin + i - (int64_t{1} << 35)));
    }
  }
  return 0;
}
