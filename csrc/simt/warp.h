// Barriers, shuffles and votes, with the meaning that the CUDA C++ Programming Guide gives them; what it leaves
// undefined fails, or, where a kernel may rightly ignore the result
// (a shuffle from a lane not in the mask), gives poison.
#pragma once
#include <bit>
#include <cstring>
#include <type_traits>

#include "block.h"

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::block.barrier(0, file, line);
}
inline int __syncthreads_count(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::block.barrier(predicate != 0, file, line);
}
inline int __syncthreads_or(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::block.barrier(predicate != 0, file, line) != 0;
}
inline int __syncthreads_and(int predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::block.barrier(predicate == 0, file, line) == 0;
}

namespace simt {
inline constexpr Collective kSyncWarp{"__syncwarp", [](void* const*, unsigned) {}};

template <typename T>
struct Shuffled {
  T value, result;
  int from;  // a lane; -1: the caller's own value
};
template <typename T>
inline constexpr Collective kShuffle{"__shfl_sync", [](void* const* operands, unsigned mask) {
                                       for (int lane = 0; lane < kWarp; ++lane) {
                                         if (!(mask >> lane & 1)) continue;
                                         auto& mine = *static_cast<Shuffled<T>*>(operands[lane]);
                                         const int from = mine.from < 0 ? lane : mine.from;
                                         if (mask >> from & 1)
                                           mine.result = static_cast<Shuffled<T>*>(operands[from])->value;
                                         else
                                           std::memset(static_cast<void*>(&mine.result), kPoison, sizeof(T));
                                       }
                                     }};
template <typename T>
T shuffle(unsigned mask, T value, int from) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move 4 or 8 bytes");
  Shuffled<T> operands{value, value, from};
  block.collective(kShuffle<T>, mask, &operands);
  return operands.result;
}
inline int segment(int width) {  // first lane of the caller's segment
  if (width < 1 || width > kWarp || !std::has_single_bit(static_cast<unsigned>(width)))
    fail("a shuffle of width ", width, "; a power of two up to 32 is possible");
  return block.lane() & ~(width - 1);
}

struct Vote {
  bool predicate;
  unsigned ballot;
};
inline constexpr Collective kVote{"__ballot_sync", [](void* const* operands, unsigned mask) {
                                    unsigned ballot = 0;
                                    for (int lane = 0; lane < kWarp; ++lane)
                                      if (mask >> lane & 1 && static_cast<Vote*>(operands[lane])->predicate)
                                        ballot |= 1u << lane;
                                    for (int lane = 0; lane < kWarp; ++lane)
                                      if (mask >> lane & 1) static_cast<Vote*>(operands[lane])->ballot = ballot;
                                  }};
}  // namespace simt

inline void __syncwarp(unsigned mask = 0xFFFFFFFF) { simt::block.collective(simt::kSyncWarp, mask, nullptr); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return simt::shuffle(mask, value, simt::segment(width) + (lane & (width - 1)));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int from = simt::block.lane() - static_cast<int>(delta);
  return simt::shuffle(mask, value, from < simt::segment(width) ? -1 : from);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int from = simt::block.lane() + static_cast<int>(delta);
  return simt::shuffle(mask, value, from >= simt::segment(width) + width ? -1 : from);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const int from = simt::block.lane() ^ lane_mask;  // earlier segments may be read, later ones not
  return simt::shuffle(mask, value, from >= simt::segment(width) + width ? -1 : from);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  simt::Vote operands{predicate != 0, 0};
  simt::block.collective(simt::kVote, mask, &operands);
  return operands.ballot;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
// Which lanes run together is never promised, and here none do.
inline unsigned __activemask() { return 1u << simt::block.lane(); }
