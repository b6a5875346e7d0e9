// A matrix product by our GPU kernel, with the scratch it wants and torch's own choice of TF32.
#pragma once
#include "../linear_relu.h"
#include "tf32.h"
#include "torch.h"

namespace torchext {
// c = a b + bias, then the epilogue; `like` is any tensor of T on the device.
template <typename T>
void cuda_product(T* c, const T* a, const T* b, const T* bias, Epilogue epilogue, MatmulShape s, const Tensor& like,
                  const OnDevice& on) {
  auto pieces = accumulators<T>(like, cuda::matmul_scratch_size<T>(s));
  const bool tf32 = std::is_same_v<T, float> && allow_tf32("matmul");
  cuda::matmul<T>(c, a, b, bias, epilogue, tf32, s, ptr<acc_t<T>>(pieces), on.stream());
}
}  // namespace torchext
