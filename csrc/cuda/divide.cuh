// Division by a number that the launch knows: a multiplication and a shift in place of some twenty instructions.
// (Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI 1994.)
#pragma once
#include "launch.cuh"

namespace torchext::cuda {
class Divisor {
 public:
  explicit Divisor(int64_t d) : d_(d) {
    const uint64_t divisor = static_cast<uint64_t>(d);
    while (uint64_t(1) << shift_ < divisor) ++shift_;
    const uint64_t above = (uint64_t(1) << shift_) - divisor;
    multiplier64_ = static_cast<uint64_t>((static_cast<unsigned __int128>(above) << 64) / divisor + 1);
    if (d >> 31 == 0) multiplier32_ = static_cast<uint32_t>((above << 32) / divisor + 1);
  }
  // n / d for n >= 0 and d >= 1.
  __device__ __forceinline__ int64_t quotient(int64_t n) const {
    if ((n | d_) >> 31) return (__umul64hi(n, multiplier64_) + static_cast<uint64_t>(n)) >> shift_;
    const uint32_t low = static_cast<uint32_t>(n);
    return (__umulhi(low, multiplier32_) + low) >> shift_;
  }
  // The same of 32 bits, where d has no more.
  __device__ __forceinline__ int split(int& n) const {
    const uint32_t whole = static_cast<uint32_t>(n);
    n = static_cast<int>((__umulhi(whole, multiplier32_) + whole) >> shift_);
    return static_cast<int>(whole) - n * static_cast<int>(d_);
  }
  // n / d, rounded up.
  __device__ __forceinline__ int64_t quotient_up(int64_t n) const { return quotient(n + d_ - 1); }
  // Leaves n / d in n and gives n % d.
  __device__ __forceinline__ int64_t split(int64_t& n) const {
    const int64_t whole = n;
    n = quotient(whole);
    return whole - n * d_;
  }

 private:
  int64_t d_;
  uint64_t multiplier64_;
  uint32_t multiplier32_ = 0, shift_ = 0;
};
}  // namespace torchext::cuda
