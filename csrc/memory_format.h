// Contiguous or channels_last, as torch decides it from sizes and strides.
#pragma once
#include "glue.h"

namespace torchext {
// Whether torch's suggest_memory_format() says channels_last for the 4-d tensor t.
inline bool channels_last(const Tensor& t) {
  int64_t least = 0;
  if (t.dim() != 4 || t.stride(1) == 0) return false;
  for (int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) == 0 || t.stride(d) < least) return false;
    if (d == 0 && least == t.stride(1)) return false;  // [n, 1, 1, 1] is both
    least = t.stride(d) * std::max<int64_t>(1, t.size(d));
  }
  return true;
}

inline bool is_dense(const Tensor& t, bool channels_last) {
  if (!channels_last) return t.is_contiguous();
  int64_t expected = 1;
  for (int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

inline Tensor dense(const Tensor& t, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  if (is_dense(t, channels_last)) return t;
  return torch::stable::contiguous(t, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// A new 4-d tensor on like's device, dense in the memory format.
inline Tensor empty(const Tensor& like, const int64_t (&size)[4], bool channels_last, ScalarType dtype) {
  const int64_t n = size[1] * size[2] * size[3], h = size[3] * (channels_last ? size[1] : 1);
  const int64_t strides[4] = {n, channels_last ? 1 : size[2] * size[3], h, channels_last ? size[1] : 1};
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4, size, strides,
                                                  torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
                                                  device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}
}  // namespace torchext
