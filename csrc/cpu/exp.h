// exp(x) for x <= 0, and log(x) for normal positive x, on vectors. NaN in, NaN out; exp(-inf) is 0, and so is what
// would be below the smallest normal number.
#ifndef TORCHEXT_EXP
#define TORCHEXT_EXP

namespace torchext::cpu::ISA {
// p * 2^n, n the integer in the low bits of `shifted`; `underflows` where the result is 0.
template <typename V, typename M>
inline V scale(V p, V shifted, V n, M underflows) {
#if ISA_LEVEL == 512
  if constexpr (sizeof(p[0]) == 4)
    return bits<V>(_mm512_scalef_ps(bits<__m512>(p), bits<__m512>(n)));
  else
    return bits<V>(_mm512_scalef_pd(bits<__m512d>(p), bits<__m512d>(n)));
#else
  return underflows ? V{} : bits<V>(bits<M>(p) + (bits<M>(shifted) << (sizeof(p[0]) == 4 ? 23 : 52)));
#endif
}

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2; adding 1.5 * 2^23 leaves n in the low bits.
// At most 1 ulp off.
inline Vec<float> exp(Vec<float> x) {
  using V = Vec<float>;
  constexpr float kSmallest = -87.33654f, kRound = 12582912.0f;
  const V y = max(splat<V>(ISA_LEVEL == 512 ? -1000.0f : kSmallest), x);
  const V shifted = y * 1.44269504f + kRound, n = shifted - kRound;
  const V r = (y - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts: the first product is exact
  V p = r * 1.3814540580e-3f + 8.3687454462e-3f;
  p = p * r + 4.1668388993e-2f;
  p = p * r + 1.6666521132e-1f;
  p = p * r + 4.9999994040e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return scale(p, shifted, n, x < kSmallest);
}

// The same with Taylor's series to r^13 / 13!: 4e-18 relative.
inline Vec<double> exp(Vec<double> x) {
  using V = Vec<double>;
  constexpr double kSmallest = -708.396, kRound = 6755399441055744.0;
  constexpr double kInverseFactorial[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  const V y = max(splat<V>(ISA_LEVEL == 512 ? -2000.0 : kSmallest), x);
  const V shifted = y * 1.4426950408889634 + kRound, n = shifted - kRound;
  const V r = (y - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  V p = splat<V>(kInverseFactorial[0]);
  for (int i = 1; i < 14; ++i) p = p * r + kInverseFactorial[i];
  return scale(p, shifted, n, x < kSmallest);
}

// log(x) = e ln 2 + log(1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
inline Vec<float> log(Vec<float> x) {
  using V = Vec<float>;
  const auto u = bits<Vec<int32_t>>(x) - 0x3f3504f3;
  const V e = __builtin_convertvector(u >> 23, V);
  const V f = bits<V>((u & 0x7fffff) + 0x3f3504f3) - 1.0f;
  V p = f * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const V z = f * f;
  const V result = ((p * f * z + e * -2.12194440e-4f) - 0.5f * z) + f + e * 0.693359375f;
  return x == x ? result : x;
}

inline Vec<double> log(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_log(x[i]);
  return x;
}
}  // namespace torchext::cpu::ISA
#endif
