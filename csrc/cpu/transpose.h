// A square block of registers, rows to columns: log2(lanes) rounds of interleaving the first half with the second.
#ifndef TORCHEXT_TRANSPOSE
#define TORCHEXT_TRANSPOSE

namespace torchext::cpu::ISA {
template <typename V, int... I>
inline void interleave_(V a, V b, V& low, V& high, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  low = __builtin_shufflevector(a, b, (I / 2 + (I % 2) * n)...);
  high = __builtin_shufflevector(a, b, (n / 2 + I / 2 + (I % 2) * n)...);
}

// rows[i][j] becomes rows[j][i].
template <typename V>
inline void transpose(V* rows) {
  constexpr int n = sizeof(V) / sizeof(rows[0][0]);
  V from[n];
  for (int round = 1; round < n; round *= 2) {
    for (int i = 0; i < n; ++i) from[i] = rows[i];
    for (int i = 0; i < n / 2; ++i)
      interleave_(from[i], from[i + n / 2], rows[2 * i], rows[2 * i + 1], std::make_integer_sequence<int, n>());
  }
}
}  // namespace torchext::cpu::ISA
#endif
