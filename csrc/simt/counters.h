// What each launch did: global memory read and written through cuda/pack.cuh and cuda/async.cuh, in bytes as the
// threads asked for them, so that a kernel can be held against its floor.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "shared.h"

namespace simt {
struct Launch {
  std::string kernel;
  uint64_t blocks, threads, shared_bytes, read, written;
};
inline std::vector<Launch> launches;
inline bool recording = false;
inline uint64_t bytes_read = 0, bytes_written = 0;

inline void check_aligned(const void* p, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) fail(what, " of ", bytes, " bytes at ", p, ", which is not a multiple");
}
inline void on_global(const void* p, size_t bytes, const char* what) {
  check_aligned(p, bytes, what);
  if (shared_memory.holds(p)) fail(what, " of shared memory by what is meant for global memory");
}
inline void on_load(const void* p, size_t bytes) {
  on_global(p, bytes, "a load");
  bytes_read += bytes;
}
inline void on_store(const void* p, size_t bytes) {
  on_global(p, bytes, "a store");
  bytes_written += bytes;
}
inline void on_shared(const void* p, size_t bytes) {
  check_aligned(p, bytes, "an access to shared memory");
  if (!shared_memory.holds(p)) fail("an access by what is meant for shared memory to memory that is not");
}
}  // namespace simt
