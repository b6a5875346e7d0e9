// cross_entropy, glue: view the logits as [n, c, s], allocate once, then hand raw pointers to the backend.
#include "cross_entropy.h"

#include <vector>

#include "cpu/scratch.h"
#include "glue.h"

namespace torchext {
namespace {
enum Reduction : int64_t { kNone, kMean, kSum };  // torch.nn._reduction's numbers

struct Options {
  int64_t ignore_index;
  double label_smoothing;
  int64_t reduction;
};

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

  int64_t stats_size() const { return (index ? 2 : 3) * positions() + 1; }  // the last: total weight
  template <typename A>
  SoftmaxStats<A> stats_at(A* p) const {
    return {p, p + positions(), index ? nullptr : p + 2 * positions()};
  }
};

// The target as the kernels read it; `weights` holds the class weights where they are not the caller's own.
template <typename T>
ClassTarget<T> class_target(cpu::Scratch<acc_t<T>>& weights, const Logits& logits, const std::optional<Tensor>& weight,
                            const Options& options) {
  using A = acc_t<T>;
  const int64_t c = logits.shape.c;
  const double label_smoothing = options.label_smoothing;
  ClassTarget<T> target{};
  if (logits.index)
    target.index = ptr<int64_t>(logits.target);
  else
    target.probability = ptr<T>(logits.target);
  target.keep = static_cast<A>(1 - label_smoothing);
  target.even = static_cast<A>(label_smoothing / static_cast<double>(c));
  target.ignore_index = options.ignore_index;
  if (!weight && logits.index && label_smoothing == 0) return target;
  if constexpr (std::is_same_v<T, A>)
    if (weight) target.weight = ptr<T>(*weight);
  if (!target.weight) {
    weights = cpu::Scratch<A>(c);
    for (int64_t j = 0; j < c; ++j) weights[j] = weight ? static_cast<A>(ptr<T>(*weight)[j]) : A(1);
    target.weight = weights;
  }
  if (label_smoothing != 0) {
    double total = 0;
    for (int64_t j = 0; j < c; ++j) total += target.weight[j];
    target.even_total = static_cast<A>(total * label_smoothing / static_cast<double>(c));
  }
  return target;
}

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
  // Fixed by the shape, so that the order of summation does not depend on the number of threads.
  static int64_t block(ClassShape s) {
    const int64_t positions = std::min(cpu::kPositions, grain(s.c));
    return s.s == 1 ? positions : (positions + 63) / 64 * 64;
  }

  // Calls f(block, p0, p1) for every block of positions.
  template <typename F>
  static void each_block(ClassShape s, F&& f) {
    const int64_t positions = s.n * s.s, size = block(s), blocks = (positions + size - 1) / size;
    if (blocks == 1) return f(0, 0, positions);  // 0.2 us sooner
    parallel_for(0, blocks, grain(size * s.c), [&](int64_t block0, int64_t block1) {
      for (int64_t i = block0; i < block1; ++i) f(i, i * size, std::min(positions, (i + 1) * size));
    });
  }

  template <typename T>
  static LossSum sum(T* loss, SoftmaxStats<acc_t<T>> stats, const T* x, const ClassTarget<T>& target, ClassShape s) {
    const int64_t blocks = (s.n * s.s + block(s) - 1) / block(s);
    cpu::Scratch<LossSum> sums(blocks);
    each_block(
        s, [&](int64_t i, int64_t p0, int64_t p1) { sums[i] = cpu::cross_entropy(loss, stats, x, target, s, p0, p1); });
    LossSum total{0, 0, -1};
    for (int64_t i = 0; i < blocks; ++i) {
      total.loss += sums[i].loss;
      total.weight += sums[i].weight;
      if (total.out_of_range < 0) total.out_of_range = sums[i].out_of_range;
    }
    return total;
  }

  template <typename T>
  static void gradient(T* dx, const T* dloss, int64_t dloss_step, acc_t<T> scale, const T* x,
                       const ClassTarget<T>& target, SoftmaxStats<acc_t<T>> stats, ClassShape s) {
    each_block(s, [&](int64_t, int64_t p0, int64_t p1) {
      cpu::cross_entropy_backward(dx, dloss, dloss_step, scale, x, target, stats, s, p0, p1);
    });
  }

  static void require_in_range(int64_t position, const int64_t* index, int64_t c, int64_t ignore_index) {
    if (position < 0) return;
    const int64_t t = index[position];
    require(false, "cross_entropy: expected target in [0, ", c, ") or ignore_index ", ignore_index, ", got ", t,
            " at flat position ", position, " (torch: Target ", t, " is out of bounds.)");
  }

  template <typename T>
  static void forward(Tensor& loss, Tensor& saved, const Logits& logits, const std::optional<Tensor>& weight,
                      const Options& options, bool save_gradient) {
    using A = acc_t<T>;
    const bool mean = options.reduction == kMean;
    const int64_t size = logits.stats_size();
    cpu::Scratch<A> weights(0), scratch(save_gradient ? size : 0);
    A* const stats = save_gradient ? static_cast<A*>(scratch) : ptr<A>(saved);
    const ClassTarget<T> target = class_target<T>(weights, logits, weight, options);
    const LossSum total = sum<T>(options.reduction == kNone ? ptr<T>(loss) : nullptr, logits.stats_at(stats),
                                 ptr<T>(logits.x), target, logits.shape);
    require_in_range(total.out_of_range, target.index, logits.shape.c, options.ignore_index);
    stats[size - 1] = static_cast<A>(total.weight);
    if (options.reduction != kNone) ptr<T>(loss)[0] = static_cast<T>(mean ? total.loss / total.weight : total.loss);
    const T one(1);
    if (save_gradient)
      gradient<T>(ptr<T>(saved), &one, 0, mean ? 1 / stats[size - 1] : A(1), ptr<T>(logits.x), target,
                  logits.stats_at(stats), logits.shape);
  }

  template <typename T>
  static void backward(Tensor& dx, const Tensor& dloss, const Logits& logits, const std::optional<Tensor>& weight,
                       const Tensor& stats, const Options& options) {
    using A = acc_t<T>;
    cpu::Scratch<A> weights(0);
    const ClassTarget<T> target = class_target<T>(weights, logits, weight, options);
    A* const saved = const_cast<A*>(ptr<A>(stats));
    gradient<T>(ptr<T>(dx), ptr<T>(dloss), options.reduction == kNone,
                options.reduction == kMean ? 1 / saved[logits.stats_size() - 1] : A(1), ptr<T>(logits.x), target,
                logits.stats_at(saved), logits.shape);
  }
};

// On a GPU, and on the CPU as the `.simt` overloads.
struct Cuda {
  template <typename T>
  static cuda::Target<T> target_of(const Logits& logits, const std::optional<Tensor>& weight, const Options& options) {
    using A = acc_t<T>;
    return {logits.index ? ptr<int64_t>(logits.target) : nullptr,
            logits.index ? nullptr : ptr<T>(logits.target),
            ptr<T>(weight),
            nullptr,
            static_cast<A>(1 - options.label_smoothing),
            static_cast<A>(options.label_smoothing / static_cast<double>(logits.shape.c)),
            options.ignore_index};
  }

  template <typename T>
  static void forward(Tensor& loss, Tensor& saved, const Logits& logits, const std::optional<Tensor>& weight,
                      const Options& options, bool save_gradient) {
    const OnDevice on(logits.x);
    const bool reduced = options.reduction != kNone;
    const int64_t size = logits.stats_size();
    Tensor sums = empty(logits.x, {cuda::cross_entropy_scratch_size<T>(logits.shape)}, aoti_torch_dtype_float64());
    std::optional<Tensor> scratch = accumulators<T>(logits.x, save_gradient ? size : 0);
    auto* const stats = scratch ? ptr<acc_t<T>>(scratch) : ptr<acc_t<T>>(saved);
    cuda::cross_entropy<T>(reduced ? nullptr : ptr<T>(loss), reduced ? ptr<T>(loss) : nullptr, stats + size - 1,
                           options.reduction == kMean, logits.stats_at(stats), ptr<T>(logits.x),
                           target_of<T>(logits, weight, options), logits.shape, ptr<double>(sums), on.stream());
    if (save_gradient) gradient<T>(saved, nullptr, logits, weight, stats, options, on);
  }

  template <typename T>
  static void backward(Tensor& dx, const Tensor& dloss, const Logits& logits, const std::optional<Tensor>& weight,
                       const Tensor& stats, const Options& options) {
    gradient<T>(dx, ptr<T>(dloss), logits, weight, const_cast<acc_t<T>*>(ptr<acc_t<T>>(stats)), options,
                OnDevice(logits.x));
  }

  template <typename T>
  static void gradient(Tensor& dx, const T* dloss, const Logits& logits, const std::optional<Tensor>& weight,
                       acc_t<T>* stats, const Options& options, const OnDevice& on) {
    cuda::Target<T> target = target_of<T>(logits, weight, options);
    const bool weighted = weight && logits.index && options.label_smoothing != 0;
    std::optional<Tensor> weight_sum = accumulators<T>(logits.x, weighted ? 1 : 0);
    if (weighted) cuda::sum_weights<T>(ptr<acc_t<T>>(weight_sum), ptr<T>(weight), logits.shape.c, on.stream());
    target.weight_sum = ptr<acc_t<T>>(weight_sum);
    cuda::cross_entropy_backward<T>(ptr<T>(dx), dloss, options.reduction == kNone,
                                    options.reduction == kMean ? stats + logits.stats_size() - 1 : nullptr,
                                    ptr<T>(logits.x), target, logits.stats_at(stats), logits.shape, on.stream());
  }
};

// Returns the loss, and what backward needs. That is SoftmaxStats and the total weight in one tensor of accumulators
// or, if asked, the gradient for a dloss of 1, which spares a small loss the second call.
template <class Backend>
std::tuple<Tensor, Tensor> cross_entropy(const Tensor& x, const Tensor& target, const std::optional<Tensor>& weight_,
                                         int64_t ignore_index, double label_smoothing, int64_t reduction,
                                         bool save_gradient) {
  const Logits logits(x, target);
  const std::optional<Tensor> weight = dense(weight_);
  const bool wide = x.scalar_type() == ScalarType::Double;
  require(!save_gradient || reduction != kNone, "cross_entropy: save_gradient is for mean and sum");
  Tensor loss = empty_loss(x, reduction);
  Tensor saved = save_gradient
                     ? uninitialised_like(logits.x)
                     : empty(x, {logits.stats_size()}, wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  dispatch_float(x, "cross_entropy", [&]<typename T>() {
    Backend::template forward<T>(loss, saved, logits, weight, {ignore_index, label_smoothing, reduction},
                                 save_gradient);
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
