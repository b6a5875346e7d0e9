// The order in which threads and blocks run: random, and the same again for the same seed.
#pragma once
#include <cstdint>
#include <cstdlib>

namespace simt {
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {  // splitmix64
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>((next() >> 32) * bound >> 32); }

 private:
  uint64_t state_;
};

inline Random order{[] {
  const char* seed = std::getenv("SIMT_SEED");
  return seed ? std::strtoull(seed, nullptr, 10) : 0ull;
}()};
}  // namespace simt
