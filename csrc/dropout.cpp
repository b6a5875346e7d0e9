// dropout, glue: one pass over memory, in whatever order the output lies there.
#include "dropout.h"

#include "glue.h"

namespace torchext {
namespace {
struct Cpu {
  static void dropout(Tensor& y, const Tensor& x, const Tensor& seed, double p, double scale, double shift, double fill) {
    const DropoutShape s{x.numel(), static_cast<uint64_t>(*ptr<int64_t>(seed)), p, scale, shift, fill};
    constexpr int64_t unit = cpu::kDropoutUnit;
    dispatch_float(x, "dropout", [&]<typename T>() {
      parallel_for(0, (s.count + unit - 1) / unit, grain(unit), [&](int64_t unit0, int64_t unit1) {
        cpu::dropout(ptr<T>(y), ptr<T>(x), s, unit0 * unit, std::min(s.count, unit1 * unit));
      });
    });
  }
};

void check(const Tensor& seed, double p) {
  require(seed.scalar_type() == ScalarType::Long && seed.numel() == 1, "dropout: expected seed of one int64");
  require(p >= 0 && p <= 1, "dropout: expected p between 0 and 1, got ", p);
}

template <class Backend>
Tensor dropout(const Tensor& x, const Tensor& seed, double p, double scale, double shift, double fill) {
  check(seed, p);
  const bool fits = is_dense(x);
  Tensor y = fits ? empty_as(x) : torch::stable::clone(x);  // the clone is dense: dropped in place
  Backend::dropout(y, fits ? x : y, seed, p, scale, shift, fill);
  return y;
}

template <class Backend>
void dropout_(Tensor& x, const Tensor& seed, double p, double scale, double shift, double fill) {
  check(seed, p);
  require(is_dense(x), "dropout_: expected x without gaps or overlaps in memory");
  Backend::dropout(x, x, seed, p, scale, shift, fill);
}
}  // namespace
}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, m) {
  using namespace torchext;
  m.impl("dropout", TORCH_BOX(&dropout<Cpu>));
  m.impl("dropout_", TORCH_BOX(&dropout_<Cpu>));
}
