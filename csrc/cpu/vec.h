// Vectors of VECTOR_BYTES in the compiler's own vector types: arithmetic, comparisons and `mask ? a : b` are operators,
// so one source serves every instruction set. Elements in memory are T; in registers they are acc_t<T>,
// converted on load and store.
#ifndef TORCHEXT_VEC
#define TORCHEXT_VEC

namespace torchext::cpu::ISA {
template <typename A, int N>
struct VecOf {
  typedef A type __attribute__((vector_size(N * sizeof(A))));
};
template <typename A>
inline constexpr int kLanes = VECTOR_BYTES / static_cast<int>(sizeof(A));
template <typename A, int N = kLanes<A>>
using Vec = typename VecOf<A, N>::type;

template <typename To, typename From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <typename V, typename A>
inline V splat(A a) {
  return a - V{};  // a - 0 is a for every a, -0 included, so this is a bare broadcast; a + 0 is not
}

template <typename V>
inline V max(V a, V b) {
  return a > b ? a : b;
}

// ---- conversions between memory and registers ----
template <typename T>
using Packed = Vec<uint16_t, kLanes<float>>;  // the 16-bit patterns of as many elements as a register of floats holds

inline Vec<float> widen(Packed<BFloat16> h, BFloat16) {
  return bits<Vec<float>>(__builtin_convertvector(h, Vec<uint32_t>) << 16);
}

inline Packed<BFloat16> narrow(Vec<float> v, BFloat16) {  // to nearest even; every NaN becomes 0x7fc0, as torch's does
  const auto u = bits<Vec<uint32_t>>(v);
  const auto rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return __builtin_convertvector(v == v ? rounded : splat<Vec<uint32_t>>(0x7fc0u), Packed<BFloat16>);
}

#if ISA_LEVEL == 512
inline Vec<float> widen(Packed<Half> h, Half) { return bits<Vec<float>>(_mm512_cvtph_ps(bits<__m256i>(h))); }
inline Packed<Half> narrow(Vec<float> v, Half) { return bits<Packed<Half>>(_mm512_cvtps_ph(bits<__m512>(v), 0)); }
#elif ISA_LEVEL == 2
inline Vec<float> widen(Packed<Half> h, Half) { return bits<Vec<float>>(_mm256_cvtph_ps(bits<__m128i>(h))); }
inline Packed<Half> narrow(Vec<float> v, Half) { return bits<Packed<Half>>(_mm256_cvtps_ph(bits<__m256>(v), 0)); }
#else
inline Vec<float> widen(Packed<Half> h, Half) {
  Vec<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = static_cast<float>(Half(h[i], Half::from_bits()));
  return v;
}
inline Packed<Half> narrow(Vec<float> v, Half) {
  Packed<Half> h;
  for (int i = 0; i < kLanes<float>; ++i) h[i] = Half(v[i]).x;
  return h;
}
#endif

template <typename T>
inline Vec<acc_t<T>> load(const T* p) {
  if constexpr (std::is_same_v<T, acc_t<T>>) {
    Vec<T> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  } else {
    Packed<T> h;
    __builtin_memcpy(&h, p, sizeof h);
    return widen(h, T());
  }
}

template <typename T>
inline void store(T* p, Vec<acc_t<T>> v) {
  if constexpr (std::is_same_v<T, acc_t<T>>) {
    __builtin_memcpy(p, &v, sizeof v);
  } else {
    const Packed<T> h = narrow(v, T());
    __builtin_memcpy(p, &h, sizeof h);
  }
}

template <int kBy, typename V, int... I>
inline V rotate_(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, ((I + kBy) % static_cast<int>(sizeof...(I)))...);
}

template <typename I, int... kLane>
inline Vec<I> iota_(std::integer_sequence<int, kLane...>) {
  return Vec<I>{kLane...};
}

// By halves: at most log2(lanes) stores; `count` may be all lanes.
template <int kHalf, typename E, typename V>
inline void store_first_(E* p, V v, int64_t count) {
  if constexpr (kHalf > 0) {
    constexpr int n = sizeof(V) / sizeof(E);
    if (count & kHalf) {
      __builtin_memcpy(p, &v, kHalf * sizeof(E));
      p += kHalf, v = rotate_<kHalf>(v, std::make_integer_sequence<int, n>());
    }
    store_first_<kHalf / 2>(p, v, count);
  }
}

// The first `count` lanes only; the others read as zero and are not written.
template <typename T>
inline Vec<acc_t<T>> load(const T* p, int64_t count) {
#if ISA_LEVEL == 512
  const uint32_t mask = (1u << count) - 1;
  if constexpr (std::is_same_v<T, float>)
    return bits<Vec<float>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p));
  else if constexpr (std::is_same_v<T, double>)
    return bits<Vec<double>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p));
  else
    return widen(bits<Packed<T>>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p)), T());
#else
#if ISA_LEVEL == 2
  if constexpr (std::is_same_v<T, acc_t<T>>) {
    using I = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
    const auto mask = bits<__m256i>(iota_<I>(std::make_integer_sequence<int, kLanes<T>>()) < static_cast<I>(count));
    if constexpr (std::is_same_v<T, float>)
      return bits<Vec<float>>(_mm256_maskload_ps(p, mask));
    else
      return bits<Vec<double>>(_mm256_maskload_pd(p, mask));
  }
#endif
  T buffer[kLanes<acc_t<T>>] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = p[i];
  return load(buffer);
#endif
}

template <typename T>
inline void store(T* p, Vec<acc_t<T>> v, int64_t count) {
#if ISA_LEVEL == 512
  const uint32_t mask = (1u << count) - 1;
  if constexpr (std::is_same_v<T, float>)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), bits<__m512>(v));
  else if constexpr (std::is_same_v<T, double>)
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), bits<__m512d>(v));
  else
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), bits<__m256i>(narrow(v, T())));
#else
  if constexpr (std::is_same_v<T, acc_t<T>>)
    store_first_<kLanes<T>>(p, v, count);
  else
    store_first_<kLanes<float>>(reinterpret_cast<uint16_t*>(p), narrow(v, T()), count);
#endif
}

// ---- shuffles and reductions ----
// Combines all lanes by f, halving: the order, hence the rounding, depends on the vector's width alone.
template <int kBy, typename V, typename F>
inline auto reduce_(V v, F f) {
  constexpr int n = sizeof(V) / sizeof(v[0]);
  if constexpr (kBy == 0)
    return v[0];
  else
    return reduce_<kBy / 2>(f(v, rotate_<kBy>(v, std::make_integer_sequence<int, n>())), f);
}
template <typename V, typename F>
inline auto reduce(V v, F f) {
  return reduce_<sizeof(V) / sizeof(v[0]) / 2>(v, f);
}

template <typename V>
inline auto sum(V v) {
  return reduce(v, [](V a, V b) { return a + b; });
}

template <typename V>
inline auto maximum(V v) {
  return reduce(v, [](V a, V b) { return max(a, b); });
}
}  // namespace torchext::cpu::ISA
#endif
