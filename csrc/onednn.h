// Large products and convolutions on the CPU, by way of torch's own entry points to oneDNN (twice as fast as the
// default BLAS path on AMD). They are C functions of torch's AOTInductor ABI; a torch built without oneDNN lacks them,
// hence the weak references.
#pragma once
#include "glue.h"

extern "C" {
__attribute__((weak)) AOTITorchError aoti_torch_cpu__linear_pointwise(AtenTensorHandle x, AtenTensorHandle w,
                                                                      AtenTensorHandle* b, const char* attr,
                                                                      const double** scalars, int64_t scalar_count,
                                                                      const char** algorithm, AtenTensorHandle* y);
AOTITorchError aoti_torch_cpu_mm_out(AtenTensorHandle out, AtenTensorHandle a, AtenTensorHandle b);
}

namespace torchext::onednn {
inline bool has_linear() { return aoti_torch_cpu__linear_pointwise != nullptr; }

// x w^T + b; x: [m, k] and w: [n, k], either of them any transposed view.
inline Tensor linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) {
  AtenTensorHandle bias = b ? b->get() : nullptr, y;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu__linear_pointwise(x.get(), w.get(), b ? &bias : nullptr, "none", nullptr, 0, nullptr, &y));
  return Tensor(y);
}
}  // namespace torchext::onednn
