// ldmatrix and mma.sync, lane by lane as the PTX manual lays the fragments out. All 32 lanes of a warp take part.
// g = lane / 4 and t = lane % 4 throughout.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "block.h"
#include "counters.h"

namespace simt {
constexpr unsigned kAllLanes = 0xFFFFFFFF;

// Lane l gives the address of row l % 8 of matrix l / 8: 8 rows of 16 bytes each. Register i of lane l receives
// elements 2t and 2t + 1 of row g of matrix i; transposed, of column g.
template <int kMatrices, bool kTransposed>
struct LoadMatrix {
  const void* row;
  uint32_t* result;
  static void run(void* const* operands, unsigned) {
    for (int matrix = 0; matrix < kMatrices; ++matrix)
      for (int lane = 0; lane < kWarp; ++lane) {
        const int g = lane / 4, t = lane % 4;
        uint16_t pair[2];
        for (int i = 0; i < 2; ++i) {
          const int row = kTransposed ? 2 * t + i : g, column = kTransposed ? g : 2 * t + i;
          const auto* from = static_cast<const LoadMatrix*>(operands[matrix * 8 + row]);
          std::memcpy(&pair[i], static_cast<const char*>(from->row) + 2 * column, 2);
        }
        std::memcpy(&static_cast<LoadMatrix*>(operands[lane])->result[matrix], pair, 4);
      }
  }
  static constexpr Collective kCollective{"ldmatrix", run};
};
template <int kMatrices, bool kTransposed>
void load_matrix(uint32_t* result, const void* row) {
  if (block.lane() < 8 * kMatrices) {
    check_aligned(row, 16, "ldmatrix");
    if (!shared_memory.holds(row)) fail("ldmatrix from memory that is not shared");
  }
  LoadMatrix<kMatrices, kTransposed> operands{row, result};
  block.collective(operands.kCollective, kAllLanes, &operands);
}

// d += a b, a: 16 x K, b: K x 8, d: 16 x 8, fragments of elements E in 32-bit registers. Where a lane's elements lie:
//   a: row g, plus 8 for every odd pair of registers' group
//   b: column g
//   d: rows g and g + 8, columns 2t and 2t + 1
template <typename E, int K>
struct Multiply {
  static constexpr int kPerRegister = 4 / sizeof(E);
  float* d;
  const uint32_t *a, *b;

  static void run(void* const* operands, unsigned) {
    float a[16][K], b[K][8];
    for (int lane = 0; lane < kWarp; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const auto& from = *static_cast<const Multiply*>(operands[lane]);
      for (int r = 0; r < 4; ++r)
        for (int i = 0; i < kPerRegister; ++i)
          a[g + 8 * (r % 2)][kPerRegister * (t + 4 * (r / 2)) + i] = value(from.a[r], i);
      for (int r = 0; r < 2; ++r)
        for (int i = 0; i < kPerRegister; ++i) b[kPerRegister * (t + 4 * r) + i][g] = value(from.b[r], i);
    }
    float sum[16][8] = {};
    for (int row = 0; row < 16; ++row)
      for (int k = 0; k < K; ++k)
        for (int column = 0; column < 8; ++column) sum[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < kWarp; ++lane) {
      float* d = static_cast<Multiply*>(operands[lane])->d;
      for (int i = 0; i < 4; ++i) d[i] += sum[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
    }
  }
  static float value(uint32_t bits, int i) {
    if constexpr (sizeof(E) == 4) {
      return std::bit_cast<float>(bits & 0xFFFFE000);  // tf32: the low 13 bits are not read
    } else {
      E element;
      const uint16_t half = static_cast<uint16_t>(bits >> 16 * i);
      std::memcpy(&element, &half, 2);
      return static_cast<float>(element);
    }
  }
  static constexpr Collective kCollective{"mma.sync", run};
};
// m16n8k16 for elements of 2 bytes, m16n8k8 for tf32.
template <typename E>
void multiply(float* d, const uint32_t* a, const uint32_t* b) {
  Multiply<E, 32 / sizeof(E)> operands{d, a, b};
  block.collective(operands.kCollective, kAllLanes, &operands);
}

// m8n8k4 in float64: a lane holds a[g][t], b[t][g], d[g][2t] and d[g][2t + 1].
struct MultiplyDouble {
  double *d, a, b;
  static void run(void* const* operands, unsigned) {
    auto lane = [&](int i) { return static_cast<MultiplyDouble*>(operands[i]); };
    for (int i = 0; i < kWarp; ++i)
      for (int j = 0; j < 2; ++j)
        for (int k = 0; k < 4; ++k)
          lane(i)->d[j] = std::fma(lane(i / 4 * 4 + k)->a, lane((2 * (i % 4) + j) * 4 + k)->b, lane(i)->d[j]);
  }
  static constexpr Collective kCollective{"mma.sync", run};
};
inline void multiply(double* d, double a, double b) {
  MultiplyDouble operands{d, a, b};
  block.collective(operands.kCollective, kAllLanes, &operands);
}

// cvt.rna.tf32: rounds to 10 bits of mantissa, halves away from zero.
inline uint32_t to_tf32(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return std::isfinite(x) ? (bits + 0x1000) & 0xFFFFE000 : bits;
}
}  // namespace simt
