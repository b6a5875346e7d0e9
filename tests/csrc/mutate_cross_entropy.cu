// Rows that a block shares, planes whose classes several warps share, and the total of the blocks' sums.
#include "cuda/cross_entropy.cu"
#include "mutations.h"

using namespace torchext;
using namespace torchext::cuda;
using namespace mutations;
using T = ELEMENT;

void calls() {
  for (const ClassShape s : {ClassShape{12, 3000, 1}, {2, 1024, 36}}) {
    const int64_t size = s.n * s.c * s.s, positions = s.n * s.s;
    const auto x = random<T>(size);
    std::vector<int64_t> index(positions);
    for (int64_t& i : index) i = numbers.below(static_cast<uint32_t>(s.c));
    const auto even = static_cast<acc_t<T>>(0.1 / static_cast<double>(s.c));
    const Target<T> target{index.data(), nullptr, nullptr, nullptr, acc_t<T>(0.9), even, -100};
    auto losses = result<T>(positions), loss = result<T>(1);
    auto max = result<acc_t<T>>(positions), inverse = max, q_sum = max, weight = result<acc_t<T>>(1);
    auto sums = result<double>(cross_entropy_scratch_size<T>(s));
    const int64_t count = cross_entropy<T>(losses.data(), {max.data(), inverse.data(), q_sum.data()}, x.data(), target,
                                           s, sums.data(), nullptr);
    total_loss<T>(loss.data(), weight.data(), true, sums.data(), count, nullptr);
    note(losses), note(max), note(inverse), note(loss), note(weight);
  }
}
