// cross_entropy, glue: view the logits as [n, c, s], allocate once, then hand raw pointers to the backend.
#include "glue/cross_entropy_loss.h"

#include <vector>

namespace torchext {
namespace {
// Laid out as [n, d1, ..., c] underneath: channels_last and its likes.
bool classes_last(const Tensor& t) {
  int64_t expected = 1;
  auto next = [&](int64_t d) {
    const bool fits = t.size(d) == 1 || t.stride(d) == expected;
    expected *= t.size(d);
    return fits;
  };
  if (t.dim() < 3 || !next(1)) return false;
  for (int64_t d = t.dim() - 1; d > 1; --d)
    if (!next(d)) return false;
  return next(0);
}

// x and probabilities in one of the layouts the kernels read, and the shape they have there.
struct Logits {
  Tensor x, target;
  bool index;  // class indices; else probabilities
  ClassShape shape;

  Logits(const Tensor& x_, const Tensor& target_)
      : x(x_), target(target_), index(target_.scalar_type() == ScalarType::Long) {
    const bool plain = x_.dim() == 1;
    int64_t positions = plain ? 1 : x_.size(0), s = 1;
    for (int64_t d = 2; d < x_.dim(); ++d) s *= x_.size(d);
    const bool rows = !x_.is_contiguous() && classes_last(x_) && (index || classes_last(target_));
    if (!rows) x = dense(x_);
    if (!rows || index) target = dense(target_);
    shape = {rows ? positions * s : positions, x_.size(plain ? 0 : 1), rows ? 1 : s};
    require(index ? target.numel() == shape.n * shape.s : target.numel() == x.numel(),
            "cross_entropy: expected target [n, ...] of int64 or target like x, [n, c, ...]");
  }
  int64_t positions() const { return shape.n * shape.s; }

  int64_t stats_size() const { return torchext::stats_size(index, positions()); }
  template <typename A>
  SoftmaxStats<A> stats_at(A* p) const {
    return torchext::stats_at(p, index, positions());
  }
};

Tensor empty_loss(const Tensor& x, int64_t reduction) {
  if (reduction != kNone) return empty(x, {});
  std::vector<int64_t> sizes, strides;
  for (int64_t d = 0; d < x.dim(); ++d)
    if (d != (x.dim() > 1)) sizes.push_back(x.size(d));
  strides.assign(sizes.size(), 1);
  for (int64_t d = static_cast<int64_t>(sizes.size()) - 1; d > 0; --d)
    strides[d - 1] = strides[d] * std::max<int64_t>(1, sizes[d]);
  return empty_strided(x, static_cast<int64_t>(sizes.size()), sizes.data(), strides.data());
}

struct Cpu {
  template <typename T>
  static void forward(Tensor& loss, Tensor& saved, const Logits& logits, const std::optional<Tensor>& weight,
                      const LossOptions& options) {
    using A = acc_t<T>;
    const bool mean = options.reduction == kMean;
    const int64_t size = logits.stats_size();
    cpu::Scratch<A> weights(0);
    A* const stats = ptr<A>(saved);
    const ClassTarget<T> target = class_target<T>(weights, logits.target, logits.shape.c, weight, options);
    const LossSum total = CpuLoss::sum<T>(options.reduction == kNone ? ptr<T>(loss) : nullptr, logits.stats_at(stats),
                                          ptr<T>(logits.x), target, logits.shape);
    CpuLoss::require_in_range("cross_entropy", total.out_of_range, target.index, logits.shape.c, options.ignore_index);
    stats[size - 1] = static_cast<A>(total.weight);
    if (options.reduction != kNone)
      ptr<T>(loss)[0] = static_cast<T>(mean ? mean_loss(total.loss, total.weight) : total.loss);
  }

  template <typename T>
  static void backward(Tensor& dx, const Tensor& dloss, const Logits& logits, const std::optional<Tensor>& weight,
                       const Tensor& stats, const LossOptions& options) {
    using A = acc_t<T>;
    cpu::Scratch<A> weights(0);
    const ClassTarget<T> target = class_target<T>(weights, logits.target, logits.shape.c, weight, options);
    const A* const saved = ptr<A>(stats);
    CpuLoss::gradient<T>(ptr<T>(dx), ptr<T>(dloss), options.reduction == kNone,
                         options.reduction == kMean ? 1 / saved[logits.stats_size() - 1] : A(1), ptr<T>(logits.x),
                         target, logits.stats_at(saved), logits.shape);
  }
};

// On a GPU, and on the CPU as the `.simt` overloads.
struct Cuda {
  template <typename T>
  static void forward(Tensor& loss, Tensor& saved, const Logits& logits, const std::optional<Tensor>& weight,
                      const LossOptions& options) {
    const OnDevice on(logits.x);
    const bool reduced = options.reduction != kNone;
    const int64_t size = logits.stats_size();
    Tensor sums = empty(logits.x, {cuda::cross_entropy_scratch_size<T>(logits.shape)}, aoti_torch_dtype_float64());
    auto* const stats = ptr<acc_t<T>>(saved);
    const int64_t blocks =
        cuda::cross_entropy<T>(reduced ? nullptr : ptr<T>(loss), logits.stats_at(stats), ptr<T>(logits.x),
                               CudaTarget<T>(logits.target, logits.shape.c, weight, options).kernels, logits.shape,
                               ptr<double>(sums), on.stream());
    cuda::total_loss<T>(reduced ? ptr<T>(loss) : nullptr, stats + size - 1, options.reduction == kMean,
                        ptr<double>(sums), blocks, on.stream());
  }

  template <typename T>
  static void backward(Tensor& dx, const Tensor& dloss, const Logits& logits, const std::optional<Tensor>& weight,
                       const Tensor& stats, const LossOptions& options) {
    const OnDevice on(logits.x);
    const auto* const saved = ptr<acc_t<T>>(stats);
    CudaTarget<T> target(logits.target, logits.shape.c, weight, options);
    target.sum_weights(logits.x, logits.shape.c, on);
    cuda::cross_entropy_backward<T>(ptr<T>(dx), ptr<T>(dloss), options.reduction == kNone,
                                    options.reduction == kMean ? saved + logits.stats_size() - 1 : nullptr,
                                    ptr<T>(logits.x), target.kernels, logits.stats_at(saved), logits.shape,
                                    on.stream());
  }
};

// Returns the loss, and what backward needs: SoftmaxStats and the total weight in one tensor of accumulators.
template <class Backend>
std::tuple<Tensor, Tensor> cross_entropy(const Tensor& x, const Tensor& target, const std::optional<Tensor>& weight_,
                                         int64_t ignore_index, double label_smoothing, int64_t reduction) {
  const Logits logits(x, target);
  const std::optional<Tensor> weight = dense(weight_);
  const bool wide = x.scalar_type() == ScalarType::Double;
  Tensor loss = empty_loss(x, reduction);
  Tensor saved = empty(x, {logits.stats_size()}, wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  dispatch_float(x, "cross_entropy", [&]<typename T>() {
    Backend::template forward<T>(loss, saved, logits, weight, {ignore_index, label_smoothing, reduction});
  });
  return {loss, saved};
}

template <class Backend>
Tensor cross_entropy_backward(const Tensor& dloss_, const Tensor& x, const Tensor& target,
                              const std::optional<Tensor>& weight_, const Tensor& stats, int64_t ignore_index,
                              double label_smoothing, int64_t reduction) {
  const Logits logits(x, target);
  const Tensor dloss = dense(dloss_);
  const std::optional<Tensor> weight = dense(weight_);
  require(stats.numel() == logits.stats_size() && dloss.numel() == (reduction == kNone ? logits.positions() : 1),
          "cross_entropy_backward: expected forward's stats and a dloss like its loss");
  Tensor dx = uninitialised_like(logits.x);
  dispatch_float(x, "cross_entropy_backward", [&]<typename T>() {
    Backend::template backward<T>(dx, dloss, logits, weight, stats, {ignore_index, label_smoothing, reduction});
  });
  return dx;
}

template <class Backend>
void implement(Library& m) {
  m.impl(OVERLOAD("cross_entropy"), TORCH_BOX(&cross_entropy<Backend>));
  m.impl(OVERLOAD("cross_entropy_backward"), TORCH_BOX(&cross_entropy_backward<Backend>));
}
REGISTER(implement)
}  // namespace
}  // namespace torchext
