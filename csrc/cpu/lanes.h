// Vectors narrower than a register, for rows shorter than one: N lanes, a power of two up to kLanes.
#ifndef TORCHEXT_LANES
#define TORCHEXT_LANES
#include "vec.h"

namespace torchext::cpu::ISA {
template <typename A>
using Int = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;  // the lanes of a comparison of As

template <int N>
inline Vec<float, N> widen_lanes(Vec<uint16_t, N> h, BFloat16) {
  return bits<Vec<float, N>>(__builtin_convertvector(h, Vec<uint32_t, N>) << 16);
}

template <int N>
inline Vec<uint16_t, N> narrow_lanes(Vec<float, N> v, BFloat16) {
  using U = Vec<uint32_t, N>;
  const auto u = bits<U>(v);
  const auto rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return __builtin_convertvector(v == v ? rounded : splat<U>(0x7fc0u), Vec<uint16_t, N>);
}

template <int N>
inline Vec<float, N> widen_lanes(Vec<uint16_t, N> h, Half) {
#if ISA_LEVEL >= 2
  if constexpr (N == 8) return bits<Vec<float, N>>(_mm256_cvtph_ps(bits<__m128i>(h)));
  if constexpr (N == 4) return bits<Vec<float, N>>(_mm_cvtph_ps(_mm_cvtsi64_si128(bits<int64_t>(h))));
#endif
  Vec<float, N> v;
  for (int i = 0; i < N; ++i) v[i] = static_cast<float>(Half(h[i], Half::from_bits()));
  return v;
}

template <int N>
inline Vec<uint16_t, N> narrow_lanes(Vec<float, N> v, Half) {
  using H = Vec<uint16_t, N>;
#if ISA_LEVEL >= 2
  if constexpr (N == 8) return bits<H>(_mm256_cvtps_ph(bits<__m256>(v), 0));
  if constexpr (N == 4) return bits<H>(_mm_cvtsi128_si64(_mm_cvtps_ph(bits<__m128>(v), 0)));
#endif
  H h;
  for (int i = 0; i < N; ++i) h[i] = Half(v[i]).x;
  return h;
}

template <int N, typename T>
inline Vec<acc_t<T>, N> load_lanes(const T* p) {
  if constexpr (N == kLanes<acc_t<T>>) {
    return load(p);
  } else if constexpr (std::is_same_v<T, acc_t<T>>) {
    Vec<T, N> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  } else {
    Vec<uint16_t, N> h;
    __builtin_memcpy(&h, p, sizeof h);
    return widen_lanes<N>(h, T());
  }
}

template <int N, typename T>
inline void store_lanes(T* p, Vec<acc_t<T>, N> v) {
  if constexpr (N == kLanes<acc_t<T>>) {
    store(p, v);
  } else if constexpr (std::is_same_v<T, acc_t<T>>) {
    __builtin_memcpy(p, &v, sizeof v);
  } else {
    const auto h = narrow_lanes<N>(v, T());
    __builtin_memcpy(p, &h, sizeof h);
  }
}

// N bytes as integers as wide as A's, and back. (GCC widens and narrows one by one unless told the instruction: a pool
// took half as long again.)
template <int N, typename A>
inline Vec<Int<A>, N> load_bytes(const uint8_t* p) {
  using V = Vec<Int<A>, N>;
#if defined(TORCHEXT_X86_KERNELS)
  __m128i bytes{};
  __builtin_memcpy(&bytes, p, N);
#if ISA_LEVEL == 512
  if constexpr (sizeof(V) == 64)
    return bits<V>(sizeof(A) == 8 ? _mm512_cvtepu8_epi64(bytes) : _mm512_cvtepu8_epi32(bytes));
#endif
#if ISA_LEVEL >= 2
  if constexpr (sizeof(V) == 32)
    return bits<V>(sizeof(A) == 8 ? _mm256_cvtepu8_epi64(bytes) : _mm256_cvtepu8_epi32(bytes));
#endif
  if constexpr (sizeof(V) == 16) {
    const __m128i none{}, words = _mm_unpacklo_epi16(_mm_unpacklo_epi8(bytes, none), none);
    return bits<V>(sizeof(A) == 8 ? _mm_unpacklo_epi32(words, none) : words);
  }
#endif
  Vec<uint8_t, N> narrow;
  __builtin_memcpy(&narrow, p, N);
  return __builtin_convertvector(narrow, V);
}

#if defined(TORCHEXT_X86_KERNELS)
inline __m128i bytes_of_words(__m128i low, __m128i high) {  // eight words, each below 256
  return _mm_packus_epi16(_mm_packs_epi32(low, high), __m128i{});
}
inline __m128i low_words(__m128i low, __m128i high) {  // of four pairs of words
  return bits<__m128i>(_mm_shuffle_ps(bits<__m128>(low), bits<__m128>(high), 0x88));
}
#endif

template <int N, typename V>
inline void store_bytes(uint8_t* p, V v) {
#if defined(TORCHEXT_X86_KERNELS)
  __m128i bytes;
  constexpr bool wide = sizeof(v[0]) == 8;
#if ISA_LEVEL == 512
  if constexpr (sizeof(V) == 64) {
    bytes = wide ? _mm512_cvtepi64_epi8(bits<__m512i>(v)) : _mm512_cvtepi32_epi8(bits<__m512i>(v));
    __builtin_memcpy(p, &bytes, N);
    return;
  }
#endif
#if ISA_LEVEL >= 2
  if constexpr (sizeof(V) == 32) {
    const __m128i low = _mm256_castsi256_si128(bits<__m256i>(v)), high = _mm256_extracti128_si256(bits<__m256i>(v), 1);
    bytes = wide ? bytes_of_words(low_words(low, high), __m128i{}) : bytes_of_words(low, high);
    __builtin_memcpy(p, &bytes, N);
    return;
  }
#endif
  if constexpr (sizeof(V) == 16) {
    const auto words = bits<__m128i>(v);
    bytes = bytes_of_words(wide ? low_words(words, words) : words, __m128i{});
    __builtin_memcpy(p, &bytes, N);
    return;
  }
#endif
  const auto narrow = __builtin_convertvector(v, Vec<uint8_t, N>);
  __builtin_memcpy(p, &narrow, N);
}

template <int N, typename V>
inline bool any_nan(V v) {
#if ISA_LEVEL == 512
  if constexpr (sizeof(V) == 64)
    return sizeof(v[0]) == 4 ? _mm512_cmpunord_ps_mask(bits<__m512>(v), bits<__m512>(v)) != 0
                             : _mm512_cmpunord_pd_mask(bits<__m512d>(v), bits<__m512d>(v)) != 0;
#endif
#if ISA_LEVEL >= 2
  if constexpr (sizeof(V) == 32) return _mm256_movemask_epi8(bits<__m256i>(v != v)) != 0;
#endif
#if defined(TORCHEXT_X86_KERNELS)
  if constexpr (sizeof(V) == 16) return _mm_movemask_epi8(bits<__m128i>(v != v)) != 0;
#endif
  bool any = false;
  for (int i = 0; i < N; ++i) any |= v[i] != v[i];
  return any;
}

// ---- every other lane ----
template <typename V, int... I>
inline V even_(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}
template <typename V, int... I>
inline V odd_(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I + 1)...);
}
// b begins one element early: its lane 0 is a's last
template <typename V, int... I>
inline V even_late_(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (2 * I < n ? 2 * I : 2 * I + 1)...);
}

// p[0], p[2], ... and p[1], p[3], ...: reads 2 N elements
template <int N, typename T>
inline void load_pairs(const T* p, Vec<acc_t<T>, N>& even, Vec<acc_t<T>, N>& odd) {
  if constexpr (std::is_same_v<T, BFloat16>) {  // a pair of bfloat16 is a word: its halves need no shuffle
    Vec<uint32_t, N> u;
    __builtin_memcpy(&u, p, sizeof u);
    even = bits<Vec<float, N>>(u << 16);
    odd = bits<Vec<float, N>>(u & 0xffff0000u);
  } else {
    const auto a = load_lanes<N>(p), b = load_lanes<N>(p + N);
    even = even_(a, b, std::make_integer_sequence<int, N>());
    odd = odd_(a, b, std::make_integer_sequence<int, N>());
  }
}

// p[0], p[2], ...: reads 2 N - 1 elements, so never past the last one wanted
template <int N, typename T>
inline Vec<acc_t<T>, N> load_even(const T* p) {
  if constexpr (N == 1)
    return load_lanes<N>(p);
  else
    return even_late_(load_lanes<N>(p), load_lanes<N>(p + N - 1), std::make_integer_sequence<int, N>());
}

template <typename V, int... I>
inline void interleave_lanes_(V a, V b, V& low, V& high, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  if constexpr (n == 1) {
    low = a, high = b;
  } else {
    low = __builtin_shufflevector(a, b, (I / 2 + (I % 2) * n)...);
    high = __builtin_shufflevector(a, b, (n / 2 + I / 2 + (I % 2) * n)...);
  }
}

// p[0], p[2], ... = even and p[1], p[3], ... = odd
template <int N, typename T>
inline void store_pairs(T* p, Vec<acc_t<T>, N> even, Vec<acc_t<T>, N> odd) {
  Vec<acc_t<T>, N> low, high;
  interleave_lanes_(even, odd, low, high, std::make_integer_sequence<int, N>());
  store_lanes<N>(p, low);
  store_lanes<N>(p + N, high);
}

// Calls f.operator()<N>(i) over [begin, end) by N = the widest that fits; the last call overlaps the one before it:
// for what is stored; sums take over_lanes_once.
// These and the functions given to them are inlined by force: a call for each vector costs more than the vector.
#define TORCHEXT_INLINE __attribute__((always_inline))
template <int N, typename F>
TORCHEXT_INLINE inline void over_lanes(int64_t begin, int64_t end, F&& f) {
  if (end - begin >= N) {
    int64_t i = begin;
    for (; i + N <= end; i += N) f.template operator()<N>(i);
    if (i < end) f.template operator()<N>(end - N);
  } else if constexpr (N > 1) {
    over_lanes<N / 2>(begin, end, f);
  }
}

// The same without overlap, by ever narrower vectors.
template <int N, typename F>
TORCHEXT_INLINE inline void over_lanes_once(int64_t begin, int64_t end, F&& f) {
  for (; begin + N <= end; begin += N) f.template operator()<N>(begin);
  if constexpr (N > 1) over_lanes_once<N / 2>(begin, end, f);
}
}  // namespace torchext::cpu::ISA
#endif
