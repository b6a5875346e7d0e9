// Packs of elements, and the way kernels read and write global memory: load(p), load<N>(p), store(p, x). A pack of N
// elements (1, 2, 4, 8 or 16 bytes) moves in one instruction and must be aligned to its size. On the CPU these count
// the bytes and check the alignment, so a kernel that goes round them is not counted.
#pragma once
#include "launch.cuh"

namespace torchext::cuda {
template <typename T, int N = 16 / sizeof(T)>
struct alignas(sizeof(T) * N) Pack {
  static constexpr int kSize = N;
  T v[N];
  __host__ __device__ T& operator[](int i) { return v[i]; }
  __host__ __device__ const T& operator[](int i) const { return v[i]; }
};

template <typename T>
constexpr int kPack = 16 / sizeof(T);  // the widest pack

template <size_t kBytes>
struct Word;
template <>
struct Word<1> {
  using type = unsigned char;
};
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

// The same bits as another type. (On the device a memcpy here would make nvcc forget the alignment, and load bytes.)
template <typename To, typename From>
__device__ __forceinline__ To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From) && alignof(To) <= alignof(From));
#ifdef TORCHEXT_SIMT
  To to;
  __builtin_memcpy(static_cast<void*>(&to), &from, sizeof to);
  return to;
#else
  return reinterpret_cast<const To&>(from);
#endif
}

// Global memory. (Intrinsics, because a plain assignment of a vector is now and then cut into its elements.)
template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load(const T* p) {
  const auto* from = reinterpret_cast<const typename Word<sizeof(T) * N>::type*>(p);
#ifdef TORCHEXT_SIMT
  simt::on_load(p, sizeof *from);
  return bits_as<Pack<T, N>>(*from);
#else
  return bits_as<Pack<T, N>>(__ldca(from));
#endif
}
template <typename T>
__device__ __forceinline__ T load(const T* p) {
  return load<1>(p).v[0];
}
template <typename T, int N>
__device__ __forceinline__ void store(T* p, const Pack<T, N>& x) {
  using W = typename Word<sizeof(T) * N>::type;
#ifdef TORCHEXT_SIMT
  simt::on_store(p, sizeof(W));
  *reinterpret_cast<W*>(p) = bits_as<W>(x);
#else
  __stwb(reinterpret_cast<W*>(p), bits_as<W>(x));
#endif
}
template <typename T>
__device__ __forceinline__ void store(T* p, T x) {
  store(p, Pack<T, 1>{{x}});
}

// The same for what is touched once and need not stay in a cache.
template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load_once(const T* p) {
#ifdef TORCHEXT_SIMT
  return load<N>(p);
#else
  return bits_as<Pack<T, N>>(__ldcs(reinterpret_cast<const typename Word<sizeof(T) * N>::type*>(p)));
#endif
}
template <typename T, int N>
__device__ __forceinline__ void store_once(T* p, const Pack<T, N>& x) {
#ifdef TORCHEXT_SIMT
  store(p, x);
#else
  using W = typename Word<sizeof(T) * N>::type;
  __stcs(reinterpret_cast<W*>(p), bits_as<W>(x));
#endif
}

// Shared memory, by packs; single elements need no helper there.
template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load_shared(const T* p) {
#ifdef TORCHEXT_SIMT
  simt::on_shared(p, sizeof(T) * N);
#endif
  return bits_as<Pack<T, N>>(*reinterpret_cast<const typename Word<sizeof(T) * N>::type*>(p));
}
template <typename T, int N>
__device__ __forceinline__ void store_shared(T* p, const Pack<T, N>& x) {
#ifdef TORCHEXT_SIMT
  simt::on_shared(p, sizeof(T) * N);
#endif
  using W = typename Word<sizeof(T) * N>::type;
  *reinterpret_cast<W*>(p) = bits_as<W>(x);
}

inline bool aligned(const void* p, size_t bytes = 16) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }
}  // namespace torchext::cuda
