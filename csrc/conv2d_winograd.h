// Winograd's algorithm for conv2d with a 3 x 3 or 5 x 5 window, stride 1 and many channels, on the CPU (Lavin and Gray,
// arXiv 1509.09308): results in tiles of 2 x 2, each from a tile of the image of (window + 1)^2. With B, G, A the
// transforms of csrc/cpu/conv2d_winograd_transforms.h and * the product of elements,
//   y[n, k] = A^T (sum_c (B^T x[n, c] B) * (G w[k, c] G^T)) A
//   dx = the same of dy, with w flipped and its channels changed about
//   dw[k, c] = G^T (sum_n,tiles (B^T x[n, c] B) * (A dy[n, k] A^T)) G
// with 2.25 (3 x 3) and 2.04 or 2.38 (5 x 5) times fewer multiplications than summing a result's taps.
//
// The points are few and near 1, so that results are as exact as oneDNN's plain sums, weight gradients up to ten times
// more so. What is not finite in x, w or dy is not finite in the sums either, though not at the same places: the
// kernels tell, and the caller falls back.
#pragma once
#include <cstdint>

#include "epilogue.h"

namespace torchext {
struct WinogradShape {
  int64_t n, c, h, w;  // x: [n, c, h, w]
  int64_t k, p, q;     // y: [n, k, p, q]
  int64_t taps;        // the window's side: 3 or 5
  int64_t ph, pw;      // at most taps - 1
  bool channels_last;  // x and y are dense in this memory format; w: [k, c, taps, taps], contiguous
};
// x = 0 where mask <= 0; a null mask keeps x as it is.
struct WinogradImages {
  const float* x;
  const float* mask;
};

namespace cpu {
inline constexpr int64_t kWinogradChannels = 16;  // c and k are multiples

// The kernels of one instruction set; winograd_kernels() gives the chosen one's.
struct WinogradKernels {
  // G w G^T in the order products read it, of channels [c0, c1);
  // `flipped`: of the input gradient's shape, whose weights are w, [c, k, taps, taps], turned about.
  int64_t (*weights_size)(WinogradShape);
  void (*weights)(float* u, const float* w, bool flipped, WinogradShape, int64_t c0, int64_t c1);

  // y, in bands [band0, band1) of bands(). Whether it is finite.
  int64_t (*bands)(WinogradShape);
  bool (*forward)(float* y, WinogradImages x, const float* u, const float* b, Epilogue, WinogradShape, int64_t band0,
                  int64_t band1);

  // Weight gradients are summed in parts() parts of part_size() sums, db in db_parts() parts of k; their numbers depend
  // on the shape alone. Null db_sums: not wanted.
  int64_t (*parts)(WinogradShape);
  int64_t (*db_parts)(WinogradShape);
  int64_t (*part_size)(WinogradShape);
  void (*part)(float* sums, float* db_sums, const float* x, WinogradImages dy, WinogradShape, int64_t part);
  // dw of channels [c0, c1), multiples of kWinogradChannels, from all parts. Whether it is finite.
  bool (*dw)(float* dw, const float* sums, WinogradShape, int64_t c0, int64_t c1);
};
const WinogradKernels& winograd_kernels();
}  // namespace cpu
}  // namespace torchext
