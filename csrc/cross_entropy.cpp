// cross_entropy, glue: view the logits as [n, c, s], allocate once, then hand raw pointers to the backend.
#include "cross_entropy.h"

#include <vector>

#include "cpu/scratch.h"
#include "glue.h"

namespace torchext {
namespace {
enum Reduction : int64_t { kNone, kMean, kSum };  // torch.nn._reduction's numbers

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
  ClassShape shape;

  Logits(const Tensor& x_, const Tensor& target_, bool index) : x(x_), target(target_) {
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
};

template <typename T>
SoftmaxStats<acc_t<T>> stats_at(acc_t<T>* p, int64_t positions, bool index) {
  return {p, p + positions, index ? nullptr : p + 2 * positions};
}
int64_t stats_size(int64_t positions, bool index) { return (index ? 2 : 3) * positions + 1; }  // the last: total weight

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
  static LossSum forward(T* loss, SoftmaxStats<acc_t<T>> stats, const T* x, const ClassTarget<T>& target,
                         ClassShape s) {
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
  static void backward(T* dx, const T* dloss, int64_t dloss_step, acc_t<T> scale, const T* x,
                       const ClassTarget<T>& target, SoftmaxStats<acc_t<T>> stats, ClassShape s) {
    each_block(s, [&](int64_t, int64_t p0, int64_t p1) {
      cpu::cross_entropy_backward(dx, dloss, dloss_step, scale, x, target, stats, s, p0, p1);
    });
  }
};

// The target as the kernels read it; `weights` holds the class weights where they are not the caller's own.
template <typename T>
ClassTarget<T> class_target(cpu::Scratch<acc_t<T>>& weights, const Logits& logits, bool index,
                            const std::optional<Tensor>& weight, int64_t ignore_index, double label_smoothing) {
  using A = acc_t<T>;
  const int64_t c = logits.shape.c;
  ClassTarget<T> target{};
  if (index)
    target.index = ptr<int64_t>(logits.target);
  else
    target.probability = ptr<T>(logits.target);
  target.keep = static_cast<A>(1 - label_smoothing);
  target.even = static_cast<A>(label_smoothing / static_cast<double>(c));
  target.ignore_index = ignore_index;
  if (!weight && index && label_smoothing == 0) return target;
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

bool is_index(const Tensor& target) { return target.scalar_type() == ScalarType::Long; }

void require_in_range(int64_t position, const int64_t* index, int64_t c, int64_t ignore_index) {
  if (position < 0) return;
  const int64_t t = index[position];
  require(false, "cross_entropy: expected target in [0, ", c, ") or ignore_index ", ignore_index, ", got ", t,
          " at flat position ", position, " (torch: Target ", t, " is out of bounds.)");
}

// Returns the loss, and what backward needs. That is SoftmaxStats and the total weight in one tensor of accumulators
// or, if asked, the gradient for a dloss of 1, which spares a small loss the second call.
template <class Backend>
std::tuple<Tensor, Tensor> cross_entropy(const Tensor& x, const Tensor& target, const std::optional<Tensor>& weight_,
                                         int64_t ignore_index, double label_smoothing, int64_t reduction,
                                         bool save_gradient) {
  const bool index = is_index(target), mean = reduction == kMean;
  const Logits logits(x, target, index);
  const std::optional<Tensor> weight = dense(weight_);
  const int64_t positions = logits.positions(), size = stats_size(positions, index);
  const bool wide = x.scalar_type() == ScalarType::Double;
  require(!save_gradient || reduction != kNone, "cross_entropy: save_gradient is for mean and sum");
  Tensor loss = empty_loss(x, reduction);
  Tensor saved = save_gradient ? uninitialised_like(logits.x)
                               : empty(x, {size}, wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  dispatch_float(x, "cross_entropy", [&]<typename T>() {
    using A = acc_t<T>;
    cpu::Scratch<A> weights(0), scratch(save_gradient ? size : 0);
    A* const stats = save_gradient ? static_cast<A*>(scratch) : ptr<A>(saved);
    const ClassTarget<T> targets = class_target<T>(weights, logits, index, weight, ignore_index, label_smoothing);
    const LossSum total =
        Backend::template forward<T>(reduction == kNone ? ptr<T>(loss) : nullptr, stats_at<T>(stats, positions, index),
                                     ptr<T>(logits.x), targets, logits.shape);
    require_in_range(total.out_of_range, targets.index, logits.shape.c, ignore_index);
    stats[size - 1] = static_cast<A>(total.weight);
    if (reduction != kNone) ptr<T>(loss)[0] = static_cast<T>(mean ? total.loss / total.weight : total.loss);
    const T one(1);
    if (save_gradient)
      Backend::template backward<T>(ptr<T>(saved), &one, 0, mean ? 1 / stats[size - 1] : A(1), ptr<T>(logits.x),
                                    targets, stats_at<T>(stats, positions, index), logits.shape);
  });
  return {loss, saved};
}

template <class Backend>
Tensor cross_entropy_backward(const Tensor& dloss_, const Tensor& x, const Tensor& target,
                              const std::optional<Tensor>& weight_, const Tensor& stats, int64_t ignore_index,
                              double label_smoothing, int64_t reduction) {
  const bool index = is_index(target);
  const Logits logits(x, target, index);
  const Tensor dloss = dense(dloss_);
  const std::optional<Tensor> weight = dense(weight_);
  const int64_t positions = logits.positions(), size = stats_size(positions, index);
  require(stats.numel() == size && dloss.numel() == (reduction == kNone ? positions : 1),
          "cross_entropy_backward: expected forward's stats and a dloss like its loss");
  Tensor dx = uninitialised_like(logits.x);
  dispatch_float(x, "cross_entropy_backward", [&]<typename T>() {
    using A = acc_t<T>;
    cpu::Scratch<A> weights(0);
    const ClassTarget<T> targets = class_target<T>(weights, logits, index, weight, ignore_index, label_smoothing);
    A* const saved = const_cast<A*>(ptr<A>(stats));
    Backend::template backward<T>(ptr<T>(dx), ptr<T>(dloss), reduction == kNone,
                                  reduction == kMean ? 1 / saved[size - 1] : A(1), ptr<T>(logits.x), targets,
                                  stats_at<T>(saved, positions, index), logits.shape);
  });
  return dx;
}
}  // namespace
}  // namespace torchext

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, m) {
  using namespace torchext;
  m.impl("cross_entropy", TORCH_BOX(&cross_entropy<Cpu>));
  m.impl("cross_entropy_backward", TORCH_BOX(&cross_entropy_backward<Cpu>));
}
