// What every .cu starts from: launching a kernel, shared memory, and the sizes of grids. The same source is compiled by
// nvcc for the device and by the C++ compiler against csrc/simt, which runs it thread by thread on the CPU. For that,
//   - kernels are launched by launch<kernel<T>>(grid, block, shared_bytes, stream, arguments...),
//   - shared memory comes from shared<T>() and dynamic_shared<T>(),
//   - global memory is read and written by pack.cuh and async.cuh, which count bytes and check alignment there,
//   - inline PTX is kept to async.cuh and mma.cuh, beside what models it.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>

#include "../types.h"

namespace torchext::cuda {
// The block's one object of type T: give each use a struct of its own. Not initialised.
template <typename T>
__device__ __forceinline__ T& shared() {
#ifdef TORCHEXT_SIMT
  return simt::shared<T>();
#else
  __shared__ alignas(alignof(T) < 16 ? 16 : alignof(T)) unsigned char storage[sizeof(T)];
  return reinterpret_cast<T&>(storage);
#endif
}

// The launch's shared_bytes, aligned to 16 bytes.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef TORCHEXT_SIMT
  return static_cast<T*>(simt::shared_memory.dynamic());
#else
  extern __shared__ __align__(16) unsigned char torchext_dynamic_shared[];
  return reinterpret_cast<T*>(torchext_dynamic_shared);
#endif
}

#ifndef TORCHEXT_SIMT
// Lets launches of kKernel on the current device take so much dynamic shared memory. The most asked for so far is kept
// for each device, and asked for once. The lock keeps a smaller size from overwriting another thread's larger one.
template <auto kKernel>
cudaError_t allow_shared(int bytes) {
  constexpr int kUnasked = 48 << 10;  // what every kernel may take
  constexpr int kDevices = 64;        // those beyond ask at each launch
  static std::atomic<int> allowed[kDevices];
  static std::mutex asking;
  if (bytes <= kUnasked) return cudaSuccess;
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  std::atomic<int>* most = device < kDevices ? &allowed[device] : nullptr;
  if (most && bytes <= most->load(std::memory_order_acquire)) return cudaSuccess;
  const std::lock_guard lock(asking);
  if (most) bytes = std::max(bytes, most->load(std::memory_order_relaxed));
  const cudaError_t error = cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (most && error == cudaSuccess) most->store(bytes, std::memory_order_release);
  return error;
}
#endif

template <auto kKernel, typename... Args>
void launch(dim3 grid, dim3 block, size_t shared_bytes, [[maybe_unused]] void* stream, Args... args) {
#ifdef TORCHEXT_SIMT
  static const std::string name = simt::kernel_name(__PRETTY_FUNCTION__);
  simt::run(name.c_str(), grid, block, shared_bytes, [&] { kKernel(args...); });
#else
  cudaError_t error = allow_shared<kKernel>(static_cast<int>(shared_bytes));
  if (error == cudaSuccess) kKernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
  const cudaError_t last = cudaGetLastError();  // which forgets it: the next launch is not to report this one's error
  if (error == cudaSuccess) error = last;
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("torchext: ") + __PRETTY_FUNCTION__ + ": " + cudaGetErrorString(error));
#endif
}

// How many blocks run at once, if each has a processor to itself. Few on the CPU, so that small tests split their work.
inline int processors() {
#ifdef TORCHEXT_SIMT
  return 4;
#else
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    throw std::runtime_error("torchext: no CUDA device");
  return count;
#endif
}

__host__ __device__ constexpr int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

// The x of a grid whose blocks take `each` of `n`; kernels whose n may pass 2^31 * each stride by gridDim.x instead.
inline unsigned blocks(int64_t n, int64_t each) {
  const int64_t count = ceil_div(n, each);
  if (count > 0x7FFFFFFF) throw std::runtime_error("torchext: a grid of " + std::to_string(count) + " blocks");
  return static_cast<unsigned>(count);
}
}  // namespace torchext::cuda
