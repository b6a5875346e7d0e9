// Tensor cores: ldmatrix and mma.sync (sm_80 and later), by fragments. With g = lane / 4 and t = lane % 4, of
// d, a and b a lane holds
//   d (16 x 8):  d[g][2t], d[g][2t + 1], d[g + 8][2t], d[g + 8][2t + 1]
//   a, b: what load_matrix gives for 2-byte elements, and single elements for tf32 and float64, as said below.
#pragma once
#include "pack.cuh"

namespace torchext::cuda {
// Four 8 x 8 matrices of 2-byte elements; lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, in shared
// memory). r[i] of lane l becomes elements 2t and 2t + 1 of row g of matrix i; transposed, of its column g.
template <bool kTransposed>
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row) {
#ifdef TORCHEXT_SIMT
  simt::load_matrix<4, kTransposed>(r, row);
#else
  const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
#endif
}

// d += a b in float32. a: 16 x 16, its quarters (rows 0-7, rows 8-15) x (columns 0-7, columns 8-15) in column-major
// order; b: 16 x 8, rows 0-7 then 8-15, each register a transposed 8 x 8 matrix (load_matrix of b^T).
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(sizeof(T) == 2);
#ifdef TORCHEXT_SIMT
  simt::multiply<T>(d, a, b);
#else
  if constexpr (std::is_same_v<T, BFloat16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The same on floats rounded by to_tf32. a: 16 x 8: a[g][t], a[g + 8][t], a[g][t + 4], a[g + 8][t + 4];
// b: 8 x 8: b[t][g], b[t + 4][g].
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef TORCHEXT_SIMT
  simt::multiply<float>(d, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
__device__ __forceinline__ uint32_t to_tf32(float x) {
#ifdef TORCHEXT_SIMT
  return simt::to_tf32(x);
#else
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#endif
}

// d += a b in float64, 8 x 4 by 4 x 8: a[g][t], b[t][g], d[g][2t] and d[g][2t + 1].
__device__ __forceinline__ void mma_m8n8k4(double (&d)[2], double a, double b) {
#ifdef TORCHEXT_SIMT
  simt::multiply(d, a, b);
#else
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(d[0]), "+d"(d[1])
               : "d"(a), "d"(b));
#endif
}
}  // namespace torchext::cuda
