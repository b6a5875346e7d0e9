#include "../batch_norm_relu_max_pool2d.h"

#define KERNELS "batch_norm_relu_max_pool2d_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
template <typename T>
const BatchNormPoolKernels<T>& batch_norm_pool_kernels() {
  return CHOOSE_ISA(kBatchNormPoolKernels<T>);
}
template const BatchNormPoolKernels<double>& batch_norm_pool_kernels();
template const BatchNormPoolKernels<float>& batch_norm_pool_kernels();
template const BatchNormPoolKernels<BFloat16>& batch_norm_pool_kernels();
template const BatchNormPoolKernels<Half>& batch_norm_pool_kernels();

template <typename T>
void batch_norm_affine(acc_t<T>* statistics, acc_t<T>* affine, const double* moments, const T* w, const T* b,
                       double eps, BatchNormPool s, int64_t c0, int64_t c1) {
  const int64_t c = s.channels, parts = s.parts(), a_plane = s.units_a_plane();
  const double m = static_cast<double>(parts / a_plane * s.pool.h * s.pool.w);
  auto count = [&](int64_t part) {  // elements of a channel in it
    const int64_t row = part % a_plane * s.unit_rows();
    return static_cast<double>(std::min(s.unit_rows(), s.pool.h - row) * s.pool.w);
  };
  for (int64_t i = c0; i < c1; ++i) {
    double mean = 0, squares = 0;
    for (int64_t part = 0; part < parts; ++part) mean += count(part) * moments[2 * (part * c + i)];
    mean /= m;
    for (int64_t part = 0; part < parts; ++part) {
      const double* of = moments + 2 * (part * c + i);
      squares += of[1] + count(part) * (of[0] - mean) * (of[0] - mean);
    }
    const double scale = (w ? static_cast<double>(w[i]) : 1.0) / std::sqrt(squares / m + eps);
    statistics[i] = static_cast<acc_t<T>>(mean), statistics[c + i] = static_cast<acc_t<T>>(squares / m);
    affine[i] = static_cast<acc_t<T>>(scale);
    affine[c + i] = static_cast<acc_t<T>>((b ? static_cast<double>(b[i]) : 0.0) - mean * scale);
  }
}

template <typename T>
void batch_norm_slopes(acc_t<T>* slopes, T* dw, T* db, const double* sums, const acc_t<T>* statistics, const T* w,
                       double eps, BatchNormPool s, int64_t c0, int64_t c1) {
  const int64_t c = s.channels, parts = s.parts();
  const double m = static_cast<double>(parts / s.units_a_plane() * s.pool.h * s.pool.w);
  for (int64_t i = c0; i < c1; ++i) {
    double sum = 0, dot = 0;
    for (int64_t part = 0; part < parts; ++part) {
      sum += sums[2 * (part * c + i)];
      dot += sums[2 * (part * c + i) + 1];
    }
    const double invstd = 1 / std::sqrt(statistics[c + i] + eps);
    dw[i] = static_cast<T>(static_cast<acc_t<T>>(dot * invstd)), db[i] = static_cast<T>(static_cast<acc_t<T>>(sum));
    slopes[i] = statistics[i];
    slopes[c + i] = static_cast<acc_t<T>>((w ? static_cast<double>(w[i]) : 1.0) * invstd);
    slopes[2 * c + i] = static_cast<acc_t<T>>(sum / m);
    slopes[3 * c + i] = static_cast<acc_t<T>>(dot * invstd * invstd / m);
  }
}

#define INSTANTIATE(T)                                                                                                \
  template void batch_norm_affine(acc_t<T>*, acc_t<T>*, const double*, const T*, const T*, double, BatchNormPool,     \
                                  int64_t, int64_t);                                                                  \
  template void batch_norm_slopes(acc_t<T>*, T*, T*, const double*, const acc_t<T>*, const T*, double, BatchNormPool, \
                                  int64_t, int64_t)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cpu
