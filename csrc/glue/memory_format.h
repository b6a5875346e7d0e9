// Contiguous or channels_last, as torch decides it from sizes and strides.
#pragma once
#include "torch.h"

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
inline Tensor empty_image(const Tensor& like, const int64_t (&size)[4], bool channels_last,
                          std::optional<int32_t> dtype = std::nullopt) {
  const int64_t c = std::max<int64_t>(1, size[1]), h = std::max<int64_t>(1, size[2]), w = std::max<int64_t>(1, size[3]);
  const Sizes sizes{size[0], size[1], size[2], size[3]};
  return channels_last ? empty_strided(like, sizes, {c * h * w, 1, w * c, c}, dtype)
                       : empty_strided(like, sizes, {c * h * w, h * w, w, 1}, dtype);
}
}  // namespace torchext
