// One pass: read x once, write y once, the mask lives in registers. Per 64 elements of AVX-512: 12 multiplies and 50
// other instructions for the draws, 4 vectors loaded, multiplied and stored. Bound by the integer units in cache (2.5
// times a copy), by memory beyond.
#include "philox_vec.h"

namespace torchext::cpu::ISA {
inline constexpr int kStep = kBlocks * kDrawsPerBlock;  // elements whose draws one call computes
inline constexpr int kGroups = 4;  // computed side by side: 1.3 times as fast as one after the other
static_assert(kDropoutUnit % (kGroups * kStep) == 0);

#if ISA_LEVEL == 512
// One bit for each of kStep elements, set where it is kept.
struct Keep {
  uint64_t mask;

  static uint64_t join(__mmask32 low, __mmask32 high) { return low | static_cast<uint64_t>(high) << 32; }
  Keep(const Draws d[2], uint32_t high) {
    const __m512i h = _mm512_set1_epi16(static_cast<short>(high));
    mask = join(_mm512_cmplt_epu16_mask(bits<__m512i>(d[0]), h), _mm512_cmplt_epu16_mask(bits<__m512i>(d[1]), h));
  }
  static uint64_t ties(const Draws d[2], uint32_t high) {
    const __m512i h = _mm512_set1_epi16(static_cast<short>(high));
    return join(_mm512_cmpeq_epu16_mask(bits<__m512i>(d[0]), h), _mm512_cmpeq_epu16_mask(bits<__m512i>(d[1]), h));
  }
  void set(int element) { mask |= uint64_t{1} << element; }

  // kept ? a : b, for the elements of the kPart-th vector of As
  template <int kPart>
  Vec<float> pick(Vec<float> a, Vec<float> b) const {
    return bits<Vec<float>>(
        _mm512_mask_blend_ps(static_cast<__mmask16>(mask >> kPart * 16), bits<__m512>(b), bits<__m512>(a)));
  }
  template <int kPart>
  Vec<double> pick(Vec<double> a, Vec<double> b) const {
    return bits<Vec<double>>(
        _mm512_mask_blend_pd(static_cast<__mmask8>(mask >> kPart * 8), bits<__m512d>(b), bits<__m512d>(a)));
  }
};
#else
inline bool any(Vec<int16_t> mask) {
#if ISA_LEVEL == 2
  return _mm256_movemask_epi8(bits<__m256i>(mask)) != 0;
#elif defined(TORCHEXT_X86_KERNELS)
  return _mm_movemask_epi8(bits<__m128i>(mask)) != 0;
#else
  const Wide wide = bits<Wide>(mask);
  return (wide[0] | wide[1]) != 0;
#endif
}

// 16 bits for each of kStep elements, all ones where it is kept.
struct Keep {
  Vec<int16_t> mask[2];

  Keep(const Draws d[2], uint32_t high) {
    for (int i = 0; i < 2; ++i) mask[i] = d[i] < static_cast<uint16_t>(high);
  }
  static uint64_t ties(const Draws d[2], uint32_t high) {
    const auto tied = (d[0] == static_cast<uint16_t>(high)) | (d[1] == static_cast<uint16_t>(high));
    if (!any(tied)) [[likely]]
      return 0;
    uint64_t found = 0;
    for (int e = 0; e < kStep; ++e) found |= uint64_t{d[e / kLanes<int16_t>][e % kLanes<int16_t>] == high} << e;
    return found;
  }
  void set(int element) { mask[element / kLanes<int16_t>][element % kLanes<int16_t>] = -1; }

  template <int kPart, typename V>
  V pick(V a, V b) const {
    return part<kPart, V>(std::make_integer_sequence<int, sizeof(V) / sizeof(a[0])>()) ? a : b;
  }

 private:
  template <int kPart, typename V, int... I>
  auto part(std::integer_sequence<int, I...>) const {
    constexpr int n = sizeof...(I), parts = kLanes<int16_t> / n, first = kPart % parts * n;
    const auto narrow = __builtin_shufflevector(mask[kPart / parts], mask[kPart / parts], (first + I)...);
    return __builtin_convertvector(narrow, decltype(V{} < V{}));
  }
};
#endif

template <typename T, bool kShift>
void dropout_range(T* y, const T* x, DropoutShape s, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  const KeepThreshold threshold = keep_threshold(s.p);
  const auto seed = static_cast<uint64_t>(*s.seed);
  const auto scale = splat<Vec<A>>(static_cast<A>(s.scale)), shift = splat<Vec<A>>(static_cast<A>(s.shift));
  const auto fill = splat<Vec<A>>(static_cast<A>(s.fill));

  auto step = [&](int64_t i, const Draws d[2],
                  auto... all) {  // kStep elements from i on; without `all`, as many as there are
    Keep keep(d, threshold.high);
    for (uint64_t ties = Keep::ties(d, threshold.high); ties != 0; ties &= ties - 1) [[unlikely]] {
      const int element = __builtin_ctzll(ties);
      if (keep_tie(seed, static_cast<uint64_t>(i + element), threshold)) keep.set(element);
    }
    auto part = [&]<int kPart>(std::integral_constant<int, kPart>, auto... lanes) {
      Vec<A> v = load(x + i + kPart * L, lanes...) * keep.template pick<kPart>(scale, Vec<A>{});
      if constexpr (kShift) v += keep.template pick<kPart>(shift, fill);
      store(y + i + kPart * L, v, lanes...);
    };
    auto some = [&](auto index) {
      const int64_t count = std::min<int64_t>(L, end - i - index * L);
      if (count == L)
        part(index);
      else if (count > 0)
        part(index, count);
    };
    [&]<int... kPart>(std::integer_sequence<int, kPart...>) {
      if constexpr (sizeof...(all) > 0)
        (part(std::integral_constant<int, kPart>()), ...);
      else
        (some(std::integral_constant<int, kPart>()), ...);
    }(std::make_integer_sequence<int, kStep / L>());
  };

  Draws d[2 * kGroups];
  int64_t i = begin;
  for (; i + kGroups * kStep <= end; i += kGroups * kStep) {
    draws<kGroups>(d, static_cast<uint64_t>(i) / kDrawsPerBlock, seed);
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) step(i + g * kStep, d + 2 * g, std::true_type());
  }
  for (; i < end; i += kStep) {
    draws<1>(d, static_cast<uint64_t>(i) / kDrawsPerBlock, seed);
    step(i, d);
  }
}

template <typename T>
void dropout(T* y, const T* x, DropoutShape s, int64_t begin, int64_t end) {
  if (s.shift == 0 && s.fill == 0)  // no addition: it would make +0 of the -0 that stock's product has
    dropout_range<T, false>(y, x, s, begin, end);
  else
    dropout_range<T, true>(y, x, s, begin, end);
}

template <typename T>
inline constexpr DropoutKernels<T> kDropoutKernels{.dropout = dropout<T>};
}  // namespace torchext::cpu::ISA
