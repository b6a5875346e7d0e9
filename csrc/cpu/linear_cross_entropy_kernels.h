// The shares of a gradient added up in accumulators: a share and the sum are read once, one of them is written. A share
// comes from the cache, so it is bound by the sum's traffic: 8 bytes an element of 16-bit gradients, once a chunk.
#include "vec.h"

namespace torchext::cpu::ISA {
template <typename T>
void add_share(T* total, acc_t<T>* sum, const T* share, Share place, int64_t count) {
  using A = acc_t<T>;
  for (int64_t i = 0; i < count; i += kLanes<A>) {
    const int64_t lanes = std::min<int64_t>(kLanes<A>, count - i);
    Vec<A> v = load(share + i, lanes);
    if (!place.first) v += load(sum + i, lanes);
    if (place.last)
      store(total + i, v, lanes);
    else
      store(sum + i, v, lanes);
  }
}

template <typename T>
inline constexpr ShareKernels<T> kShareKernels{.add = add_share<T>};
}  // namespace torchext::cpu::ISA
