// Copies from global to shared memory that run beside the arithmetic (cp.async, sm_80 and later).
#pragma once
#include "pack.cuh"

namespace torchext::cuda {
// Begins to copy kBytes (4, 8 or 16; both ends aligned to that) of which the first `valid` are read, the rest set to 0.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int valid = kBytes) {
#ifdef TORCHEXT_SIMT
  simt::copies.begin(shared, global, kBytes, static_cast<size_t>(valid));
#else
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(kBytes), "r"(valid)
                 : "memory");
#endif
}

// Closes a group of this thread's copies.
__device__ __forceinline__ void copy_async_commit() {
#ifdef TORCHEXT_SIMT
  simt::copies.commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the kPending latest groups of this thread are under way; other threads need a barrier after it.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
#ifdef TORCHEXT_SIMT
  simt::copies.wait(kPending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}
}  // namespace torchext::cuda
