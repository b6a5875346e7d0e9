// The whole torch surface of csrc: every op's glue (csrc/<op>.cpp) sees torch through this header alone, and this header sees it
// through the stable ABI, so one binary serves every torch from the target version on.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <tuple>

#include "types.h"

namespace torchext {
using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;
using Sizes = std::initializer_list<int64_t>;

// How many items of work, of so many elements each, are worth waking a second thread for.
inline int64_t grain(int64_t elements) {
  constexpr int64_t kElements = 32768;
  return elements <= 0 || elements >= kElements ? 1 : kElements / elements;
}

// Guards what Python has already made sure of; a user meets these only by calling torch.ops.torchext directly.
template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

template <typename T>
T* ptr(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}
template <typename T>
const T* ptr(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <typename T>
const T* ptr(const std::optional<Tensor>& t) {
  return t ? ptr<T>(*t) : nullptr;
}

// Calls f.operator()<T>() with the C++ type of t's elements.
template <typename F>
void dispatch_float(const Tensor& t, const char* op, F&& f) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return f.template operator()<float>();
    case ScalarType::Double: return f.template operator()<double>();
    case ScalarType::BFloat16: return f.template operator()<BFloat16>();
    case ScalarType::Half: return f.template operator()<Half>();
    default: require(false, op, ": expected a float64, float32, bfloat16 or float16 tensor");
  }
}

// An uninitialised tensor of `like`'s dtype and device, with these sizes and strides.
inline Tensor empty_strided(const Tensor& like, Sizes sizes, Sizes strides) {
  int32_t dtype, device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides.begin(),
                                                  dtype, device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

inline Tensor empty(const Tensor& like, Sizes sizes, std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_empty(like, {sizes.begin(), sizes.size()}, dtype);
}

// The tensor itself if it is contiguous, else a contiguous copy.
inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
inline std::optional<Tensor> dense(const std::optional<Tensor>& t) { return t ? std::optional(dense(*t)) : std::nullopt; }

// Whether t's elements fill a piece of memory without gaps or overlaps, in any order of dimensions.
inline bool is_dense(const Tensor& t) {
  if (t.is_contiguous()) return true;
  const int64_t dims = t.dim();
  require(dims <= 64, "expected at most 64 dimensions");
  int64_t stride = 1;
  for (uint64_t seen = 0; stride < t.numel();) {
    int64_t d = 0;
    while (d < dims && ((seen >> d & 1) || t.size(d) == 1 || t.stride(d) != stride)) ++d;
    if (d == dims) return false;
    seen |= uint64_t{1} << d;
    stride *= t.size(d);
  }
  return true;
}

// An uninitialised tensor of a dense tensor's sizes and strides; those of a contiguous one in their usual form.
inline Tensor empty_as(const Tensor& t) {
  require(t.dim() <= 64, "expected at most 64 dimensions");
  int32_t dtype, device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &device_type));
  const auto sizes = t.sizes(), strides = t.strides();
  const int64_t dims = t.dim();
  int64_t usual[64];
  if (t.is_contiguous())
    for (int64_t d = dims - 1, stride = 1; d >= 0; stride *= std::max<int64_t>(1, sizes[d]), --d) usual[d] = stride;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, sizes.data(), t.is_contiguous() ? usual : strides.data(), dtype,
                                                  device_type, t.get_device_index(), &handle));
  return Tensor(handle);
}
}  // namespace torchext
