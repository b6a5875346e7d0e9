// Memory fresh from the system costs a fault for each page first touched: 64 MB in 4 KiB pages took 88 ms to fill, in 2
// MiB pages 16, and once touched 2.
#pragma once
#include <cstdint>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace torchext::cpu {
// Asks for large pages under a result about to be written; a hint, which the system may be set to ignore.
inline void use_large_pages([[maybe_unused]] void* p, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kWorthIt = 8 << 20, kPage = 4096;
  if (bytes < kWorthIt) return;
  const int64_t skipped = -reinterpret_cast<intptr_t>(p) & (kPage - 1);
  madvise(static_cast<char*>(p) + skipped, static_cast<size_t>(bytes - skipped), MADV_HUGEPAGE);
#endif
}
}  // namespace torchext::cpu
