// What the drivers of test_simt_mutations.py share. A driver is a program that includes an op's kernels, calls them on
// elements of type ELEMENT and notes every result; for each of argv[1] seeds of csrc/simt's schedule it prints a digest
// of the results' bits, or what the kernels threw.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "run.h"

namespace mutations {
inline simt::Random numbers{0};
inline uint64_t digest = 0;

// In [-1, 1), in eighths: bfloat16 holds them exactly.
template <typename T>
std::vector<T> random(int64_t size) {
  std::vector<T> x(size);
  for (T& v : x) v = static_cast<T>((static_cast<float>(numbers.below(16)) - 8) / 8);
  return x;
}
// A result, poisoned until a kernel writes it.
template <typename T>
std::vector<T> result(int64_t size) {
  std::vector<T> x(size);
  std::memset(static_cast<void*>(x.data()), simt::kPoison, size * sizeof(T));
  return x;
}
template <typename T>
void note(const std::vector<T>& x) {  // FNV-1a
  const auto* bytes = reinterpret_cast<const unsigned char*>(x.data());
  for (size_t i = 0; i < x.size() * sizeof(T); ++i) digest = (digest ^ bytes[i]) * 0x100000001B3u;
}
}  // namespace mutations

void calls();  // the driver's

int main(int, char** arguments) {
  for (uint64_t seed = 0; seed < std::strtoull(arguments[1], nullptr, 10); ++seed) {
    simt::order = simt::Random(seed);
    mutations::numbers = simt::Random(0);
    mutations::digest = 0xCBF29CE484222325u;
    try {
      calls();
      std::printf("%016llx\n", static_cast<unsigned long long>(mutations::digest));
    } catch (const std::exception& error) {
      std::printf("%s\n", error.what());
    }
  }
}
