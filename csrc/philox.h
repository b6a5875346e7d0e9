// Which elements dropout keeps, as a specification: every backend computes these words, so all keep the same elements,
// whatever the number of threads, the vector width or the launch geometry.
//
// Element i (its position in the output's memory) belongs to block i / 8 and is that block's draw i % 8. A block's
// draws are the eight 16-bit halves of the four Philox words of counter (block low, block high, stream, 0) under key
// (seed low, seed high), in little-endian order: word 0 low, word 0 high, word 1 low, ... With T = floor((1 - p) 2^32 +
// 1/2), element i is kept where
//     draw < T >> 16,   or   draw == T >> 16 and the same element's draw in stream 1 < (T & 0xffff),
// so the probability is exact to 2^-33 though stream 1 is asked but once in 65,536 elements.
//
// Philox4x32 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a bijection of
// 128-bit counters. Seven rounds are the fewest that pass BigCrush; the authors' default of ten is margin.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define TORCHEXT_HD __host__ __device__
#else
#define TORCHEXT_HD
#endif

namespace torchext {
inline constexpr int kPhiloxRounds = 7;
inline constexpr uint32_t kPhiloxM0 = 0xD2511F53, kPhiloxM1 = 0xCD9E8D57;  // multipliers
inline constexpr uint32_t kPhiloxW0 = 0x9E3779B9, kPhiloxW1 = 0xBB67AE85;  // what a round adds to the key
inline constexpr int kDrawsPerBlock = 8;

struct PhiloxWords {
  uint32_t word[4];
};

template <int kRounds = kPhiloxRounds>
TORCHEXT_HD constexpr PhiloxWords philox(PhiloxWords counter, uint32_t key0, uint32_t key1) {
  uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
  for (int round = 0; round < kRounds; ++round, key0 += kPhiloxW0, key1 += kPhiloxW1) {
    const uint64_t p0 = uint64_t{kPhiloxM0} * c0, p1 = uint64_t{kPhiloxM1} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(p0);
  }
  return {{c0, c1, c2, c3}};
}

TORCHEXT_HD constexpr PhiloxWords philox_block(uint64_t seed, uint64_t block, uint32_t stream) {
  return philox({{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), stream, 0}},
                static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

TORCHEXT_HD constexpr uint32_t block_draw(PhiloxWords words, int index) {
  return words.word[index / 2] >> index % 2 * 16 & 0xffff;
}

// Draw `index` % 8 of block `index` / 8.
TORCHEXT_HD constexpr uint32_t philox_draw(uint64_t seed, uint64_t index, uint32_t stream) {
  return block_draw(philox_block(seed, index / kDrawsPerBlock, stream), static_cast<int>(index % kDrawsPerBlock));
}

// T in halves. T = 2^32 (keep all) is (0xffff, 0x10000), so that `high` fits the 16 bits of a vector's lane.
struct KeepThreshold {
  uint32_t high, low;
};

TORCHEXT_HD constexpr KeepThreshold keep_threshold(double p) {
  const uint64_t t = static_cast<uint64_t>((1 - p) * 4294967296.0 + 0.5);
  const uint32_t high = t >> 16 < 0xffff ? static_cast<uint32_t>(t >> 16) : 0xffff;
  return {high, static_cast<uint32_t>(t - (uint64_t{high} << 16))};
}

// Settles an element whose draw equals threshold.high.
TORCHEXT_HD constexpr bool keep_tie(uint64_t seed, uint64_t index, KeepThreshold threshold) {
  return philox_draw(seed, index, 1) < threshold.low;
}

// The published known answers (Random123's kat_vectors), checked wherever this header is compiled.
namespace philox_known_answers {
constexpr bool same(PhiloxWords a, PhiloxWords b) {
  return a.word[0] == b.word[0] && a.word[1] == b.word[1] && a.word[2] == b.word[2] && a.word[3] == b.word[3];
}
static_assert(same(philox<10>({{0, 0, 0, 0}}, 0, 0), {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}));
static_assert(same(philox<10>({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u), {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}));
static_assert(same(philox<10>({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
                   {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}));
}  // namespace philox_known_answers
}  // namespace torchext
