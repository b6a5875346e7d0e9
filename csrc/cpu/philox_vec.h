// Philox in vectors: one block of draws for each 64-bit lane. A word lies in the low half of its lane and rubbish in
// the high half, which the 32 x 32 -> 64-bit multiply does not read: a round is then 2 multiplies,
// 2 shifts and 4 exclusive-ors.
#ifndef TORCHEXT_PHILOX_VEC
#define TORCHEXT_PHILOX_VEC

namespace torchext::cpu::ISA {
using Wide = Vec<uint64_t>;
using Draws = Vec<uint16_t>;

inline constexpr int kBlocks = kLanes<uint64_t>;  // blocks a call computes: two vectors of draws

inline Wide multiply_low(Wide a, uint32_t m) {  // the product of a's low halves and m
#if ISA_LEVEL == 512
  return bits<Wide>(_mm512_mul_epu32(bits<__m512i>(a), _mm512_set1_epi64(m)));
#elif ISA_LEVEL == 2
  return bits<Wide>(_mm256_mul_epu32(bits<__m256i>(a), _mm256_set1_epi64x(m)));
#elif defined(TORCHEXT_X86_KERNELS)
  return bits<Wide>(_mm_mul_epu32(bits<__m128i>(a), _mm_set1_epi64x(m)));
#else
  return (a & 0xffffffff) * m;
#endif
}

inline Wide join(Wide low, Wide high) { return (low & 0xffffffff) | (high << 32); }

// Lane 2q holds block q and lane 2q + 1 block q + kBlocks / 2, so that pairs of lanes, interleaved, come out in order.
template <int... I>
inline Wide lane_blocks_(std::integer_sequence<int, I...>) {
  return Wide{static_cast<uint64_t>(I % 2 * (kBlocks / 2) + I / 2)...};
}

template <int... I>
inline void interleave_(Draws out[2], Wide a, Wide b, std::integer_sequence<int, I...>) {
  out[0] = bits<Draws>(__builtin_shufflevector(a, b, (I / 2 * 2 + I % 2 * kBlocks)...));
  out[1] = bits<Draws>(__builtin_shufflevector(a, b, (I / 2 * 2 + 1 + I % 2 * kBlocks)...));
}

// Stream 0's draws of blocks [block, block + kGroups * kBlocks), in order; block is a multiple of their number, so all
// share their high word. The groups' rounds alternate: one round waits for the one before it, and a processor looks
// only so far ahead. Two rounds start from words that are the same in all lanes or zero:
// their half is computed once, not in vectors.
template <int kGroups>
inline void draws(Draws out[2 * kGroups], uint64_t block, uint64_t seed) {
  constexpr auto lanes = std::make_integer_sequence<int, kBlocks>();
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const uint32_t same = static_cast<uint32_t>(block >> 32) ^ key0;
  const uint64_t p0 = uint64_t{kPhiloxM0} * same;
  const uint32_t key1_first = key1;
  key0 += kPhiloxW0, key1 += kPhiloxW1;

  Wide c0[kGroups], c1[kGroups], c2[kGroups], c3[kGroups];
#pragma GCC unroll 8
  for (int g = 0; g < kGroups; ++g) {
    const Wide first = multiply_low(lane_blocks_(lanes) + (block + g * kBlocks), kPhiloxM0);
    c1[g] = multiply_low((first >> 32) ^ uint64_t{key1_first}, kPhiloxM1);
    c0[g] = (c1[g] >> 32) ^ uint64_t { key0 };
    c2[g] = first ^ ((p0 >> 32) ^ key1);
    c3[g] = splat<Wide>(p0);
  }
#pragma GCC unroll 8
  for (int round = 2; round < kPhiloxRounds; ++round) {
    key0 += kPhiloxW0, key1 += kPhiloxW1;
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
      const Wide even = multiply_low(c0[g], kPhiloxM0), odd = multiply_low(c2[g], kPhiloxM1);
      c0[g] = (odd >> 32) ^ c1[g] ^ uint64_t { key0 };
      c1[g] = odd;
      c2[g] = (even >> 32) ^ c3[g] ^ uint64_t { key1 };
      c3[g] = even;
    }
  }
#pragma GCC unroll 8
  for (int g = 0; g < kGroups; ++g) interleave_(out + 2 * g, join(c0[g], c1[g]), join(c2[g], c3[g]), lanes);
}
}  // namespace torchext::cpu::ISA
#endif
