// A square block of registers, rows to columns: blocks of 16 bytes change places first, which leaves what is to be
// transposed within them; then log2(lanes of 16 bytes) rounds of interleaving. Each step is one instruction a register.
#ifndef TORCHEXT_TRANSPOSE
#define TORCHEXT_TRANSPOSE

namespace torchext::cpu::ISA {
// Of a and b alternately: blocks of kBlock lanes, the even (kOdd = 0) or the odd ones of each.
template <int kBlock, int kOdd, typename V, int... I>
inline V exchange_(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b,
                                 (I / (2 * kBlock) * 2 * kBlock + kOdd * kBlock + I % kBlock + I / kBlock % 2 * n)...);
}

// Of a and b alternately: single lanes of the first (kHigh = 0) or the second half of every kLane lanes.
template <int kLane, int kHigh, typename V, int... I>
inline V interleave_(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (I / kLane * kLane + kHigh * kLane / 2 + I % kLane / 2 + I % 2 * n)...);
}

template <int kBlock, int kLane, typename V>
inline void exchange_blocks_(V* rows) {
  constexpr int n = sizeof(V) / sizeof(rows[0][0]);
  constexpr auto lanes = std::make_integer_sequence<int, n>();
  if constexpr (kBlock >= kLane) {
    for (int i = 0; i < n; ++i) {
      if (i & kBlock) continue;
      const V a = rows[i], b = rows[i + kBlock];
      rows[i] = exchange_<kBlock, 0>(a, b, lanes);
      rows[i + kBlock] = exchange_<kBlock, 1>(a, b, lanes);
    }
    exchange_blocks_<kBlock / 2, kLane>(rows);
  }
}

// rows[i][j] becomes rows[j][i].
template <typename V>
inline void transpose(V* rows) {
  constexpr int n = sizeof(V) / sizeof(rows[0][0]), kLane = n < 16 / sizeof(rows[0][0]) ? n : 16 / sizeof(rows[0][0]);
  constexpr auto lanes = std::make_integer_sequence<int, n>();
  exchange_blocks_<n / 2, kLane>(rows);
  for (int round = 1; round < kLane; round *= 2)
    for (int group = 0; group < n; group += kLane) {
      V from[kLane];
      for (int i = 0; i < kLane; ++i) from[i] = rows[group + i];
      for (int i = 0; i < kLane / 2; ++i) {
        rows[group + 2 * i] = interleave_<kLane, 0>(from[i], from[i + kLane / 2], lanes);
        rows[group + 2 * i + 1] = interleave_<kLane, 1>(from[i], from[i + kLane / 2], lanes);
      }
    }
}
}  // namespace torchext::cpu::ISA
#endif
