// One call of linear_cross_entropy as its glue sees it: tensors, shape, the chunks of rows and views of them.
#pragma once
#include "../linear_cross_entropy.h"
#include "cross_entropy_loss.h"

namespace torchext::linear_cross_entropy {
struct Problem {
  Tensor x, w, target;
  std::optional<Tensor> b, weight;
  LossOptions options;
  ClassShape shape;  // of the logits
  int64_t k, chunk;  // chunk: rows at a time
  bool index;

  Problem(const Tensor& x_, const Tensor& w_, const std::optional<Tensor>& b_, const Tensor& target_,
          const std::optional<Tensor>& weight_, LossOptions options_, int64_t chunk_)
      : x(dense(x_)),
        w(dense(w_)),
        target(dense(target_)),
        b(dense(b_)),
        weight(dense(weight_)),
        options(options_),
        index(is_index(target_)) {
    require(x.dim() == 2 && w.dim() >= 2 && x.size(1) == w.size(-1) && w.size(0) > 0 && chunk_ > 0,
            "linear_cross_entropy: expected x [n, k] and w [c, ..., k] with one k, c > 0 and chunk > 0");
    int64_t s = 1;
    for (int64_t d = 1; d < w.dim() - 1; ++d) s *= w.size(d);
    shape = {x.size(0), w.size(0), s};
    k = x.size(1);
    chunk = std::min(chunk_, std::max<int64_t>(1, shape.n));
    require(target.numel() == (index ? positions() : shape.n * columns()) && (!b || b->numel() == columns()) &&
                (!weight || weight->numel() == shape.c),
            "linear_cross_entropy: expected target [n, ...] of int64 or [n, c, ...], b [c, ...] and weight [c]");
  }
  int64_t columns() const { return shape.c * shape.s; }
  int64_t positions() const { return shape.n * shape.s; }
  int64_t stats_size() const { return torchext::stats_size(index, positions()); }
  bool each() const { return options.reduction == kNone; }
  bool mean() const { return options.reduction == kMean; }

  // Of the rows from `row` on.
  template <typename A>
  SoftmaxStats<A> stats_from(A* stats, int64_t row) const {
    const SoftmaxStats<A> all = stats_at(stats, index, positions());
    const int64_t p = row * shape.s;
    return {all.max + p, all.inverse_sum + p, all.q_sum ? all.q_sum + p : nullptr};
  }

  // Calls f(row, shape, place) for every chunk of rows.
  template <typename F>
  void each_chunk(F&& f) const {
    for (int64_t row = 0; row < shape.n; row += chunk)
      f(row, ClassShape{std::min(chunk, shape.n - row), shape.c, shape.s}, Share{row == 0, row + chunk >= shape.n});
  }
};

// What is wanted; null: not.
struct Gradients {
  Tensor *dx, *dw, *db;
  bool any() const { return dx || dw || db; }
};

// A matrix over t's memory from element `offset` on.
inline Tensor view(const Tensor& t, int64_t offset, Sizes sizes, Sizes strides) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(t.get(), 2, sizes.begin(), strides.begin(), offset, &handle));
  return Tensor(handle);
}
inline Tensor rows_of(const Tensor& t, int64_t columns, int64_t row, int64_t count) {
  return view(t, row * columns, {count, columns}, {columns, 1});
}

// Of a share that is added up elsewhere, so much at a time: it is added while it is in the cache.
template <typename T>
int64_t piece_rows(int64_t k) {
  constexpr int64_t kPieceBytes = 4 << 20;
  return 1 + kPieceBytes / static_cast<int64_t>(sizeof(T)) / std::max<int64_t>(1, k);
}
}  // namespace torchext::linear_cross_entropy
