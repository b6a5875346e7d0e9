// Divisor against plain division around every power of two, up to 63 bits.
#include "cuda/divide.cuh"

#include <cstdio>
#include <vector>

namespace torchext::cuda {
int wrong() {
  std::vector<int64_t> numbers{0};
  for (int k = 0; k < 63; ++k)
    for (int64_t d : {-1, 0, 1})
      if ((int64_t{1} << k) + d > 0) numbers.push_back((int64_t{1} << k) + d);
  for (int64_t power = 3; power < int64_t{1} << 60; power *= 5) numbers.push_back(power);
  numbers.push_back(INT64_MAX);
  for (const int64_t d : numbers)
    for (const int64_t n : numbers) {
      if (d == 0) continue;
      int64_t whole = n;
      const int64_t rest = Divisor(d).split(whole);
      if (whole != n / d || rest != n % d) return std::printf("%ld / %ld\n", long(n), long(d));
      if (n > 0 && n <= INT64_MAX - d && Divisor(d).quotient_up(n) != (n - 1) / d + 1) return 1;
    }
  return 0;
}
}  // namespace torchext::cuda

int main() { return torchext::cuda::wrong(); }
