// The whole torch surface of csrc: every op's glue (csrc/<op>.cpp) sees torch through this header alone, and this
// header sees it through the stable ABI, so one binary serves every torch from the target version on.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#ifdef TORCHEXT_CUDA
#include <torch/csrc/stable/accelerator.h>
#endif
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <tuple>

#include "../cpu/pages.h"
#include "../types.h"

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
    case ScalarType::Float:
      return f.template operator()<float>();
    case ScalarType::Double:
      return f.template operator()<double>();
    case ScalarType::BFloat16:
      return f.template operator()<BFloat16>();
    case ScalarType::Half:
      return f.template operator()<Half>();
    default:
      require(false, op, ": expected a float64, float32, bfloat16 or float16 tensor");
  }
}

// An uninitialised tensor of `like`'s device and, unless told, dtype. (torch::stable::new_empty takes twice as long.)
inline Tensor empty_strided(const Tensor& like, int64_t dim, const int64_t* sizes, const int64_t* strides,
                            std::optional<int32_t> dtype = std::nullopt) {
  int32_t like_dtype, device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &like_dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dim, sizes, strides, dtype.value_or(like_dtype), device_type,
                                                  like.get_device_index(), &handle));
  Tensor result(handle);
  if (device_type == aoti_torch_device_type_cpu()) {
    int64_t bytes;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(handle, &bytes));
#ifdef TORCHEXT_SIMT
    if (bytes)
      std::memset(result.mutable_data_ptr(), 0xFF, static_cast<size_t>(bytes));  // NaN: shows what nobody writes
#else
    cpu::use_large_pages(result.mutable_data_ptr(), bytes);
#endif
  }
  return result;
}
inline Tensor empty_strided(const Tensor& like, Sizes sizes, Sizes strides,
                            std::optional<int32_t> dtype = std::nullopt) {
  return empty_strided(like, static_cast<int64_t>(sizes.size()), sizes.begin(), strides.begin(), dtype);
}

// One of t's sizes and strides too; t is dense.
inline Tensor uninitialised_like(const Tensor& t) {
  int64_t *sizes, *strides;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(t.get(), &sizes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(t.get(), &strides));
  return empty_strided(t, t.dim(), sizes, strides);
}

// The same, contiguous.  Dtypes are the ABI's numbers: aoti_torch_dtype_uint8() and its like.
inline Tensor empty(const Tensor& like, Sizes sizes, std::optional<int32_t> dtype = std::nullopt) {
  switch (sizes.size()) {
    case 0:
      return empty_strided(like, {}, {}, dtype);
    case 1:
      return empty_strided(like, sizes, {1}, dtype);
    case 2:
      return empty_strided(like, sizes, {std::max<int64_t>(1, sizes.begin()[1]), 1}, dtype);
    default:
      require(false, "empty: at most two dimensions");
  }
  return Tensor();
}

// The tensor itself if it is contiguous, else a contiguous copy.
inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
inline std::optional<Tensor> dense(const std::optional<Tensor>& t) {
  return t ? std::optional(dense(*t)) : std::nullopt;
}

// `count` accumulators of scratch for kernels on x's device; none if 0.
template <typename T>
std::optional<Tensor> accumulators(const Tensor& x, int64_t count) {
  if (count == 0) return std::nullopt;
  return empty(x, {count}, std::is_same_v<acc_t<T>, double> ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
}
template <typename T>
T* ptr(std::optional<Tensor>& t) {
  return t ? ptr<T>(*t) : nullptr;
}

// Makes t's device the current one while it lives, and gives torch's current stream there. On the CPU: nothing, null.
class OnDevice {
 public:
#ifdef TORCHEXT_CUDA
  explicit OnDevice(const Tensor& t) : guard_(t.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream_));
  }
#else
  explicit OnDevice(const Tensor&) {}
#endif
  void* stream() const { return stream_; }

 private:
#ifdef TORCHEXT_CUDA
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  void* stream_ = nullptr;
};

using Library = torch::stable::detail::StableLibrary;

// An op's glue ends in a template `implement<Backend>(Library&)` that names each operator as OVERLOAD("name"), and in
// REGISTER(implement). The same file is compiled for torchext._C and, with csrc/cuda/<op>.cu, for torchext._simt, where
// the CUDA kernels run on CPU tensors as the `.simt` overloads.
#ifdef TORCHEXT_SIMT
#define OVERLOAD(name) name ".simt"
#define REGISTER(implement) \
  STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, m) { implement<Cuda>(m); }
#else
#define OVERLOAD(name) name
#ifdef TORCHEXT_CUDA
#define REGISTER(implement)                                          \
  STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, m) { implement<Cpu>(m); } \
  STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, m) { implement<Cuda>(m); }
#else
#define REGISTER(implement) \
  STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, m) { implement<Cpu>(m); }
#endif
#endif
}  // namespace torchext
