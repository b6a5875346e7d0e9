// Large products and convolutions on the CPU, by way of torch's own entry points to oneDNN (with AVX-512 on AMD twice
// as fast as the default BLAS path). They are C functions of torch's AOTInductor ABI; a torch built without oneDNN
// lacks them, hence the weak references.
#pragma once
#include "torch.h"

extern "C" {
__attribute__((weak)) AOTITorchError aoti_torch_cpu__linear_pointwise(AtenTensorHandle x, AtenTensorHandle w,
                                                                      AtenTensorHandle* b, const char* attr,
                                                                      const double** scalars, int64_t scalar_count,
                                                                      const char** algorithm, AtenTensorHandle* y);
__attribute__((weak)) AOTITorchError aoti_torch_cpu_convolution(
    AtenTensorHandle x, AtenTensorHandle w, AtenTensorHandle* b, const int64_t* stride, int64_t stride_count,
    const int64_t* padding, int64_t padding_count, const int64_t* dilation, int64_t dilation_count, int32_t transposed,
    const int64_t* output_padding, int64_t output_padding_count, int64_t groups, AtenTensorHandle* y);
__attribute__((weak)) AOTITorchError aoti_torch_cpu_convolution_backward(
    AtenTensorHandle dy, AtenTensorHandle x, AtenTensorHandle w, const int64_t** bias_sizes, int64_t bias_sizes_count,
    const int64_t* stride, int64_t stride_count, const int64_t* padding, int64_t padding_count, const int64_t* dilation,
    int64_t dilation_count, int32_t transposed, const int64_t* output_padding, int64_t output_padding_count,
    int64_t groups, const int32_t* wanted, int64_t wanted_count, AtenTensorHandle* dx, AtenTensorHandle* dw,
    AtenTensorHandle* db);
AOTITorchError aoti_torch_cpu_mm_out(AtenTensorHandle out, AtenTensorHandle a, AtenTensorHandle b);
AOTITorchError aoti_torch_cpu_addmm_out(AtenTensorHandle out, AtenTensorHandle c, AtenTensorHandle a,
                                        AtenTensorHandle b, double beta, double alpha);
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

// Not oneDNN's own fused ReLU: it turns NaN into 0, which torch's does not.
struct Convolution {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
};  // two-dimensional

inline bool has_convolution() { return aoti_torch_cpu_convolution && aoti_torch_cpu_convolution_backward; }

inline Tensor convolution(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, const Convolution& c) {
  AtenTensorHandle bias = b ? b->get() : nullptr, y;
  const int64_t none[] = {0, 0};
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution(x.get(), w.get(), b ? &bias : nullptr, c.stride.data(), 2,
                                                    c.padding.data(), 2, c.dilation.data(), 2, false, none, 2, c.groups,
                                                    &y));
  return Tensor(y);
}

// {dx, dw, db}; what is not wanted is no tensor.
inline std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& dy, const Tensor& x, const Tensor& w,
                                                               const Convolution& c, const int32_t (&wanted)[3]) {
  const int64_t zeros[] = {0, 0}, k = w.size(0), *bias_sizes = &k;
  AtenTensorHandle d[3] = {};
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_convolution_backward(
      dy.get(), x.get(), w.get(), &bias_sizes, 1, c.stride.data(), 2, c.padding.data(), 2, c.dilation.data(), 2, false,
      zeros, 2, c.groups, wanted, 3, &d[0], &d[1], &d[2]));
  return {Tensor(d[0]), Tensor(d[1]), Tensor(d[2])};
}
}  // namespace torchext::onednn
