// Two sums in one sweep, each over four accumulators: additions do not wait for one another, and a quarter of the
// roundings pile up in each.
#include "lanes.h"

namespace torchext::cpu::ISA {
// f(i, a, b) adds item i of `count` to the vectors a and b.
template <typename V, typename F>
TORCHEXT_INLINE inline void two_sums(V& a, V& b, int64_t count, F&& f) {
  V s[4] = {}, t[4] = {};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    for (int k = 0; k < 4; ++k) f(i + k, s[k], t[k]);
  for (; i < count; ++i) f(i, s[0], t[0]);
  a = (s[0] + s[1]) + (s[2] + s[3]), b = (t[0] + t[1]) + (t[2] + t[3]);
}

// f.operator()<N>(i, a, b) adds elements i to i + N of `count` to the vectors a and b of N lanes.
template <typename A, typename F>
TORCHEXT_INLINE inline void flat_sums(A* sums, int64_t count, F&& f) {
  constexpr int L = kLanes<A>;
  Vec<A> a, b;
  two_sums(a, b, count / L,
           [&](int64_t i, auto& a, auto& b) TORCHEXT_INLINE { f.template operator()<L>(i * L, a, b); });
  sums[0] = sum(a), sums[1] = sum(b);
  over_lanes_once<L>(count / L * L, count, [&]<int N>(int64_t i) TORCHEXT_INLINE {
    Vec<A, N> a{}, b{};
    f.template operator()<N>(i, a, b);
    sums[0] += sum(a), sums[1] += sum(b);
  });
}
}  // namespace torchext::cpu::ISA
