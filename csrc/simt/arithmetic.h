// Device arithmetic, atomics and fences. Threads switch only where they wait, so a plain read-modify-write is atomic;
// fast-math intrinsics are as exact as the functions they stand for.
#pragma once
#include <math.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "counters.h"

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }

inline uint32_t __umulhi(uint32_t x, uint32_t y) { return static_cast<uint32_t>(uint64_t(x) * y >> 32); }
inline uint64_t __umul64hi(uint64_t x, uint64_t y) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(x) * y >> 64);
}
inline int __popc(uint32_t x) { return std::popcount(x); }
inline int __popcll(uint64_t x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<uint32_t>(x)); }
inline int __ffs(int x) { return x ? std::countr_zero(static_cast<uint32_t>(x)) + 1 : 0; }

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

#define SIMT_MIN_MAX(T)                            \
  inline T min(T x, T y) { return y < x ? y : x; } \
  inline T max(T x, T y) { return x < y ? y : x; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
inline float min(float x, float y) { return std::fmin(x, y); }
inline float max(float x, float y) { return std::fmax(x, y); }
inline double min(double x, double y) { return std::fmin(x, y); }
inline double max(double x, double y) { return std::fmax(x, y); }

template <typename T>
T __ldg(const T* p) {
  simt::on_load(p, sizeof(T));
  return *p;
}

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

namespace simt {
template <typename T, typename F>
T atomic(T* p, F&& f) {
  check_aligned(p, sizeof(T), "an atomic operation");
  const T before = *p;
  *p = f(before);
  return before;
}
}  // namespace simt

#define SIMT_ATOMIC(name, T, expression)                            \
  inline T name(T* p, T x) {                                        \
    return simt::atomic(p, [x](T old) -> T { return expression; }); \
  }
#define SIMT_ATOMICS(T)                                                            \
  SIMT_ATOMIC(atomicAdd, T, old + x)                                               \
  SIMT_ATOMIC(atomicExch, T, (void(old), x))                                       \
  SIMT_ATOMIC(atomicMin, T, x < old ? x : old)                                     \
  SIMT_ATOMIC(atomicMax, T, old < x ? x : old)                                     \
  inline T atomicCAS(T* p, T expected, T x) {                                      \
    return simt::atomic(p, [=](T old) -> T { return old == expected ? x : old; }); \
  }
SIMT_ATOMICS(int)
SIMT_ATOMICS(unsigned)
SIMT_ATOMICS(unsigned long long)
#undef SIMT_ATOMICS
SIMT_ATOMIC(atomicSub, int, old - x)
SIMT_ATOMIC(atomicSub, unsigned, old - x)
SIMT_ATOMIC(atomicAnd, unsigned, old& x)
SIMT_ATOMIC(atomicOr, unsigned, old | x)
SIMT_ATOMIC(atomicAdd, float, old + x)
SIMT_ATOMIC(atomicAdd, double, old + x)
SIMT_ATOMIC(atomicExch, float, (void(old), x))
#undef SIMT_ATOMIC
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  return simt::atomic(p, [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}
