// Division by a number that the launch knows: a multiplication and a shift in place of some twenty instructions.
// (Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI 1994.)
#pragma once
#include "launch.cuh"

namespace torchext::cuda {
class Divisor {
 public:
  explicit Divisor(int64_t d) : d_(d) {
    if (d < 1 || d >> 31) return;
    while (int64_t(1) << shift_ < d) ++shift_;
    multiplier_ = static_cast<uint32_t>((((uint64_t(1) << shift_) - static_cast<uint64_t>(d)) << 32) / d + 1);
  }
  // n / d for n >= 0; beyond 31 bits by plain division.
  __device__ __forceinline__ int64_t quotient(int64_t n) const {
    if ((n | d_) >> 31) return static_cast<int64_t>(static_cast<uint64_t>(n) / static_cast<uint64_t>(d_));
    const uint32_t low = static_cast<uint32_t>(n);
    return (__umulhi(low, multiplier_) + low) >> shift_;
  }
  // Leaves n / d in n and gives n % d.
  __device__ __forceinline__ int64_t split(int64_t& n) const {
    const int64_t whole = n;
    n = quotient(whole);
    return whole - n * d_;
  }

 private:
  int64_t d_;
  uint32_t multiplier_ = 0, shift_ = 0;
};
}  // namespace torchext::cuda
