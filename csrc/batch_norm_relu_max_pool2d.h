// batch_norm_relu_max_pool2d in training, over the m = n h w elements of each channel:
//   mean = sum x / m      var = sum (x - mean)^2 / m      xhat = (x - mean) / sqrt(var + eps)      z = xhat w + b
//   y = max over each window of max(z, 0)
//   offset = the tap that won, as max_pool2d's; kDead where no z is above 0
// Backward, with dz[p] = sum of dy over the outputs whose offset names p:
//   db = sum dz      dw = sum dz xhat      dx = w / sqrt(var + eps) (dz - db / m - xhat dw / m)
//
// Neither z nor dz is ever in memory: y and one byte an output are written, and dx.
#pragma once
#include <algorithm>

#include "max_pool2d.h"

namespace torchext {
// Work is cut into units, the same for every number of threads: some rows of one plane (contiguous) or of one image
// (channels last). The units at the same place in all planes of an image are one part of the batch; each part has its
// own sums of each channel, which are added in order.
struct BatchNormPool {
  int64_t channels;
  PoolShape pool;  // no dilation

  bool channels_last() const { return pool.channels == channels; }
  int64_t unit_rows() const {  // even: a unit has whole 2 x 2 windows
    constexpr int64_t kElements = 4096;
    return std::max<int64_t>(2, kElements / std::max<int64_t>(1, pool.w * pool.channels) & ~int64_t{1});
  }
  int64_t units_a_plane() const { return (pool.h + unit_rows() - 1) / unit_rows(); }
  int64_t units() const { return pool.planes * units_a_plane(); }
  int64_t parts() const { return units() / (channels_last() ? 1 : channels); }
};

struct Unit {
  int64_t plane, row, rows, part, channel;  // channel: of the plane; 0 where a pixel holds them all

  Unit(int64_t u, const BatchNormPool& s) {
    const int64_t a_plane = s.units_a_plane(), place = u % a_plane, step = s.unit_rows();
    const int64_t planes_an_image = s.channels_last() ? 1 : s.channels;
    plane = u / a_plane, row = place * step, rows = std::min(step, s.pool.h - row);
    part = plane / planes_an_image * a_plane + place, channel = plane % planes_an_image;
  }
  int64_t pixels(const BatchNormPool& s) const { return rows * s.pool.w; }
  int64_t first(const BatchNormPool& s) const { return (plane * s.pool.h + row) * s.pool.w * s.pool.channels; }
};

namespace cpu {
// The kernels of one instruction set; batch_norm_pool_kernels() gives the chosen one's.
// Forward: moments of all units, then affine of all channels, then the rows.
// Backward: sums of all units, then slopes of all channels, then the units of dx.
template <typename T>
struct BatchNormPoolKernels {
  // moments[part][channel] = (mean, sum of squares about it)      [parts, channels, 2]
  void (*moments)(double* moments, const T* x, BatchNormPool, int64_t unit0, int64_t unit1);
  // Rows [row0, row1) of the planes * oh rows of y and offsets.
  void (*forward)(T* y, uint8_t* offsets, const T* x, const acc_t<T>* affine, BatchNormPool, int64_t row0,
                  int64_t row1);
  // sums[part][channel] = (sum dz, sum dz (x - mean))      [parts, channels, 2]
  void (*sums)(double* sums, const T* dy, const uint8_t* offsets, const T* x, const acc_t<T>* statistics, BatchNormPool,
               int64_t unit0, int64_t unit1);
  void (*backward)(T* dx, const T* dy, const uint8_t* offsets, const T* x, const acc_t<T>* slopes, BatchNormPool,
                   int64_t unit0, int64_t unit1);
};
template <typename T>
const BatchNormPoolKernels<T>& batch_norm_pool_kernels();

// statistics = (mean, var), affine = (scale, shift) with z = x scale + shift: [2, channels] each; of channels [c0, c1).
template <typename T>
void batch_norm_affine(acc_t<T>* statistics, acc_t<T>* affine, const double* moments, const T* w, const T* b,
                       double eps, BatchNormPool, int64_t c0, int64_t c1);
// slopes = (mean, a, b, d) with dx = a (dz - b - (x - mean) d): [4, channels]; dw and db may be null.
template <typename T>
void batch_norm_slopes(acc_t<T>* slopes, T* dw, T* db, const double* sums, const acc_t<T>* statistics, const T* w,
                       double eps, BatchNormPool, int64_t c0, int64_t c1);
}  // namespace cpu
}  // namespace torchext
