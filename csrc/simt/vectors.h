// CUDA's words for functions and variables, and its built-in vector types with their alignments.
#pragma once
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// Static storage cannot be told apart, poisoned and fenced per block; shared<T>() of cuda/launch.cuh can.
#define __shared__ static_assert(false, "shared memory: use shared<T>() or dynamic_shared<T>() of cuda/launch.cuh");

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define SIMT_VECTOR2(name, T)          \
  struct alignas(2 * sizeof(T)) name { \
    T x, y;                            \
  };                                   \
  inline name make_##name(T x, T y) { return {x, y}; }
#define SIMT_VECTOR4(name, T)                                    \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name { \
    T x, y, z, w;                                                \
  };                                                             \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTOR2(char2, signed char)
SIMT_VECTOR4(char4, signed char)
SIMT_VECTOR2(uchar2, unsigned char)
SIMT_VECTOR4(uchar4, unsigned char)
SIMT_VECTOR2(short2, short)
SIMT_VECTOR4(short4, short)
SIMT_VECTOR2(ushort2, unsigned short)
SIMT_VECTOR4(ushort4, unsigned short)
SIMT_VECTOR2(int2, int)
SIMT_VECTOR4(int4, int)
SIMT_VECTOR2(uint2, unsigned)
SIMT_VECTOR4(uint4, unsigned)
SIMT_VECTOR2(float2, float)
SIMT_VECTOR4(float4, float)
SIMT_VECTOR2(double2, double)
SIMT_VECTOR2(longlong2, long long)
SIMT_VECTOR2(ulonglong2, unsigned long long)
#undef SIMT_VECTOR2
#undef SIMT_VECTOR4

inline constexpr int warpSize = 32;
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
