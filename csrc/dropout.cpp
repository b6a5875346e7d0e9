// dropout, glue: one pass over memory, in whatever order the output lies there.
#include "dropout.h"

#include "glue/torch.h"

namespace torchext {
namespace {
// Whether t's elements fill a piece of memory without gaps or overlaps, in any order of dimensions.
bool is_dense(const Tensor& t) {
  if (t.is_contiguous()) return true;
  const int64_t dims = t.dim();
  require(dims <= 64, "dropout: expected at most 64 dimensions");
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

// An uninitialised tensor of a dense tensor's strides; a contiguous one's in their usual form where stock's result is a
// product: on the CPU, and alpha_dropout's. Stock's kernel for CUDA keeps the strides of dimensions of size 1.
Tensor empty_as(const Tensor& t, bool product) {
  const int64_t dims = t.dim();
  if (!product || !t.is_contiguous()) return uninitialised_like(t);
  require(dims <= 64, "dropout: expected at most 64 dimensions");
  int64_t usual[64];
  for (int64_t d = dims - 1, stride = 1; d >= 0; --d) {
    usual[d] = stride;
    stride *= std::max<int64_t>(1, t.size(d));
  }
  return empty_strided(t, dims, t.sizes().data(), usual);
}

struct Cpu {
  static void dropout(Tensor& y, const Tensor& x, DropoutShape s) {
    constexpr int64_t unit = cpu::kDropoutUnit;
    dispatch_float(x, "dropout", [&]<typename T>() {
      parallel_for(0, (s.count + unit - 1) / unit, grain(unit), [&](int64_t unit0, int64_t unit1) {
        cpu::dropout_kernels<T>().dropout(ptr<T>(y), ptr<T>(x), s, unit0 * unit, std::min(s.count, unit1 * unit));
      });
    });
  }
};

// On a GPU, and on the CPU as the `.simt` overloads.
struct Cuda {
  static void dropout(Tensor& y, const Tensor& x, DropoutShape s) {
    const OnDevice on(x);
    dispatch_float(x, "dropout", [&]<typename T>() { cuda::dropout(ptr<T>(y), ptr<T>(x), s, on.stream()); });
  }
};

DropoutShape shape_of(const Tensor& x, const Tensor& seed, double p, double scale, double shift, double fill) {
  require(seed.get_device_index() == x.get_device_index(), "dropout: expected x and seed on one device");
  require(seed.scalar_type() == ScalarType::Long && seed.numel() == 1, "dropout: expected seed of one int64");
  require(p >= 0 && p <= 1, "dropout: expected p between 0 and 1, got ", p);
  return {x.numel(), ptr<int64_t>(seed), p, scale, shift, fill};
}

template <class Backend>
Tensor dropout(const Tensor& x, const Tensor& seed, double p, double scale, double shift, double fill) {
  const DropoutShape s = shape_of(x, seed, p, scale, shift, fill);
  const bool fits = is_dense(x);
  Tensor y =
      fits ? empty_as(x, !x.is_cuda() || fill != 0) : torch::stable::clone(x);  // the clone is dense: dropped in place
  Backend::dropout(y, fits ? x : y, s);
  return y;
}

template <class Backend>
void dropout_(Tensor& x, const Tensor& seed, double p, double scale, double shift, double fill) {
  const DropoutShape s = shape_of(x, seed, p, scale, shift, fill);
  require(is_dense(x), "dropout_: expected x without gaps or overlaps in memory");
  Backend::dropout(x, x, s);
}

template <class Backend>
void implement(Library& m) {
  m.impl(OVERLOAD("dropout"), TORCH_BOX(&dropout<Backend>));
  m.impl(OVERLOAD("dropout_"), TORCH_BOX(&dropout_<Backend>));
}
REGISTER(implement)
}  // namespace
}  // namespace torchext
