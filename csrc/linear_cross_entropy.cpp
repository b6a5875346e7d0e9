// linear_cross_entropy, glue: allocate once, then take the rows in chunks through the backend's products and softmax.
#include <vector>

#include "glue/cuda_product.h"
#include "glue/linear_cross_entropy_chunks.h"
#include "glue/onednn.h"

namespace torchext::linear_cross_entropy {
namespace {
// On torch's BLAS, which at these sizes is as fast as oneDNN, and writes into memory it is given.
struct Cpu {
  static void product(const Tensor& c, const Tensor& a, const Tensor& b, bool add = false) {
    TORCH_ERROR_CODE_CHECK(add ? aoti_torch_cpu_addmm_out(c.get(), c.get(), a.get(), b.get(), 1, 1)
                               : aoti_torch_cpu_mm_out(c.get(), a.get(), b.get()));
  }

  // total = z^T x summed over the chunks, z: [n, columns], x: [n, k]: in place where the product accumulates in total's
  // own dtype, else by rounded pieces that are added up in accumulators.
  template <typename T>
  struct Sum {
    static constexpr bool kInPlace = std::is_same_v<T, acc_t<T>>;
    Tensor* total;
    int64_t columns, k, rows;
    std::optional<Tensor> sum, piece;

    Sum(const Problem& p, Tensor* total_, int64_t k_)
        : total(total_), columns(p.columns()), k(k_), rows(std::min(columns, piece_rows<T>(k_))) {
      if (!total || kInPlace || p.chunk >= p.shape.n || k == 0) return;
      sum = accumulators<T>(p.x, columns * k);
      piece = empty(p.x, {rows, k});
    }

    void add(const Tensor& z, const Tensor& x, int64_t n, Share place) {
      if (!total) return;
      if (!sum) return product(rows_of(*total, k, 0, columns), view(z, 0, {columns, n}, {1, columns}), x, !place.first);
      for (int64_t j = 0; j < columns; j += rows) {
        const int64_t count = std::min(rows, columns - j);
        product(rows_of(*piece, k, 0, count), view(z, j, {count, n}, {1, columns}), x);
        add_piece(j, count, place);
      }
    }

    void add_piece(int64_t j, int64_t count, Share place) {
      if constexpr (!kInPlace)
        parallel_for(0, count, grain(k), [&](int64_t row0, int64_t row1) {
          const int64_t at = (j + row0) * k;
          cpu::share_kernels<T>().add(ptr<T>(*total) + at, ptr<acc_t<T>>(*sum) + at, ptr<T>(*piece) + row0 * k, place,
                                      (row1 - row0) * k);
        });
    }
  };

  // What a mean divides by; refuses an index out of range before any work is done.
  template <typename T>
  static acc_t<T> total_weight(const Problem& p, const ClassTarget<T>& target) {
    if (!p.index) return static_cast<acc_t<T>>(p.positions());
    double total = 0;
    for (int64_t i = 0; i < p.positions(); ++i) {
      const int64_t t = target.index[i];
      if (t == target.ignore_index) continue;
      if (t < 0 || t >= p.shape.c)
        CpuLoss::require_in_range("linear_cross_entropy", i, target.index, p.shape.c, target.ignore_index);
      total += target.weight ? target.weight[t] : acc_t<T>(1);
    }
    return static_cast<acc_t<T>>(total);
  }

  template <typename T>
  static void logits(Tensor& z, const Tensor& x, const Problem& p, int64_t n) {
    product(z, x, view(p.w, 0, {p.k, p.columns()}, {1, p.k}));
    if (p.b)
      parallel_for(0, n, grain(p.columns()), [&](int64_t row0, int64_t row1) {
        cpu::linear_kernels<T>().bias_epilogue(ptr<T>(z), ptr<T>(p.b), Epilogue::kNone, p.columns(), row0, row1);
      });
  }

  // Forward where there are a loss and stats to write, else from forward's stats; dloss is null where it is 1.
  template <typename T>
  static void run(const Problem& p, T* loss, acc_t<T>* written, const acc_t<T>* stats, const T* dloss,
                  const Gradients& wanted) {
    using A = acc_t<T>;
    cpu::Scratch<A> weights(0);
    const ClassTarget<T> target = class_target<T>(weights, p.target, p.shape.c, p.weight, p.options);
    if (loss) written[p.stats_size() - 1] = total_weight(p, target);
    const A total = stats[p.stats_size() - 1];
    const T one(1);
    Tensor chunk = empty(p.x, {p.chunk, p.columns()}), ones = empty(p.x, {p.chunk, 1});
    std::fill_n(ptr<T>(ones), p.chunk, one);
    Sum<T> dw(p, wanted.dw, p.k), db(p, wanted.db, 1);
    double sum = 0;
    p.each_chunk([&](int64_t row, ClassShape s, Share place) {
      const Tensor x = rows_of(p.x, p.k, row, s.n);
      Tensor z = rows_of(chunk, p.columns(), 0, s.n);
      logits<T>(z, x, p, s.n);
      const ClassTarget<T> at = from_row(target, row, s);
      if (loss)
        sum +=
            CpuLoss::sum<T>(p.each() ? loss + row * s.s : nullptr, p.stats_from(written, row), ptr<T>(z), at, s).loss;
      if (!wanted.any()) return;
      CpuLoss::gradient<T>(ptr<T>(z), dloss ? dloss + p.each() * row * s.s : &one, p.each(),
                           p.mean() ? 1 / total : A(1), ptr<T>(z), at, p.stats_from(stats, row), s);
      if (wanted.dx) product(rows_of(*wanted.dx, p.k, row, s.n), z, rows_of(p.w, p.k, 0, p.columns()));
      dw.add(z, x, s.n, place);
      db.add(z, rows_of(ones, 1, 0, s.n), s.n, place);
    });
    if (loss && !p.each()) *loss = static_cast<T>(p.mean() ? mean_loss(sum, total) : sum);
  }
};

// On a GPU, and on the CPU as the `.simt` overloads.
struct Cuda {
  // total = the chunks' shares summed; write(share, j, count) writes rows [j, j + count) of one, all if `whole`.
  template <typename T>
  struct Sum {
    using A = acc_t<T>;
    Tensor* total;
    int64_t columns, k, rows;
    std::optional<Tensor> sum, piece;

    Sum(const Problem& p, Tensor* total_, int64_t k_, bool whole) : total(total_), columns(p.columns()), k(k_) {
      rows = whole ? columns : std::min(columns, piece_rows<T>(k));
      if (!total || p.chunk >= p.shape.n || k == 0) return;
      if (!std::is_same_v<T, A>) sum = accumulators<T>(p.x, columns * k);
      piece = empty(p.x, {rows, k});
    }

    template <typename F>
    void add(Share place, const OnDevice& on, F&& write) {
      if (!total) return;
      if (!piece) return write(ptr<T>(*total), 0, columns);
      for (int64_t j = 0; j < columns; j += rows) {
        const int64_t count = std::min(rows, columns - j);
        T* const to = ptr<T>(*total) + j * k;
        write(ptr<T>(*piece), j, count);
        cuda::add_share<T>(to, sum ? ptr<A>(*sum) + j * k : reinterpret_cast<A*>(to), ptr<T>(*piece), place, count * k,
                           on.stream());
      }
    }
  };

  template <typename T>
  static void run(const Problem& p, T* loss, acc_t<T>* written, const acc_t<T>* stats, const T* dloss,
                  const Gradients& wanted) {
    using A = acc_t<T>;
    const OnDevice on(p.x);
    const int64_t columns = p.columns(), k = p.k, chunks = (p.shape.n + p.chunk - 1) / p.chunk;
    CudaTarget<T> target(p.target, p.shape.c, p.weight, p.options);
    const int64_t at_total = p.stats_size() - 1;
    if (wanted.any()) target.sum_weights(p.x, p.shape.c, on);
    if (loss && wanted.any() && p.mean())
      cuda::target_weight<T>(written + at_total, target.kernels.index, ptr<T>(p.weight), p.options.ignore_index,
                             p.shape.c, p.positions(), on.stream());
    const int64_t sums_size = cuda::cross_entropy_scratch_size<T>({p.chunk, p.shape.c, p.shape.s});
    Tensor sums = empty(p.x, {loss ? chunks * sums_size : 0}, aoti_torch_dtype_float64());
    Tensor logits = empty(p.x, {p.chunk, columns});
    Sum<T> dw(p, wanted.dw, k, false), db(p, wanted.db, 1, true);
    const T* const w = ptr<T>(p.w);
    T* const z = ptr<T>(logits);
    int64_t blocks = 0;
    p.each_chunk([&](int64_t row, ClassShape s, Share place) {
      const T* const x = ptr<T>(p.x) + row * k;
      cuda_product<T>(z, x, w, ptr<T>(p.b), Epilogue::kNone,
                      {.m = s.n, .n = columns, .k = k, .a_row = k, .a_col = 1, .b_row = 1, .b_col = k}, p.x, on);
      const cuda::Target<T> at = from_row(target.kernels, row, s);
      if (loss)
        blocks += cuda::cross_entropy<T>(p.each() ? loss + row * s.s : nullptr, p.stats_from(written, row), z, at, s,
                                         ptr<double>(sums) + 2 * blocks, on.stream());
      if (!wanted.any()) return;
      cuda::cross_entropy_backward<T>(z, dloss && p.each() ? dloss + row * s.s : dloss, p.each(),
                                      p.mean() ? stats + at_total : nullptr, z, at, p.stats_from(stats, row), s,
                                      on.stream());
      if (wanted.dx)
        cuda_product<T>(ptr<T>(*wanted.dx) + row * k, z, w, nullptr, Epilogue::kNone,
                        {.m = s.n, .n = k, .k = columns, .a_row = columns, .a_col = 1, .b_row = k, .b_col = 1}, p.x,
                        on);
      dw.add(place, on, [&](T* share, int64_t j, int64_t count) {
        cuda_product<T>(share, z + j, x, nullptr, Epilogue::kNone,
                        {.m = count, .n = k, .k = s.n, .a_row = 1, .a_col = columns, .b_row = k, .b_col = 1}, p.x, on);
      });
      db.add(place, on, [&](T* share, int64_t, int64_t) {
        auto scratch = accumulators<T>(p.x, cuda::relu_backward_scratch_size<T>(s.n, columns));
        cuda::relu_backward<T>(nullptr, share, z, nullptr, s.n, columns, ptr<A>(scratch), on.stream());
      });
    });
    if (loss)
      cuda::total_loss<T>(p.each() ? nullptr : loss, written + at_total, p.mean(), ptr<double>(sums), blocks,
                          on.stream());
  }
};

// [n, ...] as w is [c, ..., k], or a scalar.
Tensor empty_loss(const Problem& p) {
  if (!p.each()) return empty(p.x, {});
  std::vector<int64_t> sizes{p.shape.n}, strides;
  for (int64_t d = 1; d < p.w.dim() - 1; ++d) sizes.push_back(p.w.size(d));
  strides.assign(sizes.size(), 1);
  for (size_t d = sizes.size() - 1; d > 0; --d) strides[d - 1] = strides[d] * std::max<int64_t>(1, sizes[d]);
  return empty_strided(p.x, static_cast<int64_t>(sizes.size()), sizes.data(), strides.data());
}

// Allocates the gradients that are wanted and calls run(Gradients); the others come back empty.
template <typename F>
std::tuple<Tensor, Tensor, Tensor> with_gradients(const Problem& p, bool want_dx, bool want_dw, bool want_db, F&& run) {
  const auto result = [&](bool wanted, const Tensor& like) {
    return wanted ? uninitialised_like(like) : empty(p.x, {0});
  };
  want_db = want_db && p.b;
  Tensor dx = result(want_dx, p.x), dw = result(want_dw, p.w), db = result(want_db, want_db ? *p.b : p.x);
  if (p.shape.n == 0) {  // no chunk writes them
    torch::stable::zero_(dw);
    torch::stable::zero_(db);
  }
  run(Gradients{want_dx ? &dx : nullptr, want_dw ? &dw : nullptr, want_db ? &db : nullptr});
  return {dx, dw, db};
}

// The loss; what backward needs: SoftmaxStats and the total weight; and the gradients wanted, for a dloss of 1, which
// mean and sum alone have.
template <class Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& w,
                                                           const std::optional<Tensor>& b, const Tensor& target,
                                                           const std::optional<Tensor>& weight, int64_t ignore_index,
                                                           double label_smoothing, int64_t reduction, int64_t chunk,
                                                           bool want_dx, bool want_dw, bool want_db) {
  const Problem p(x, w, b, target, weight, {ignore_index, label_smoothing, reduction}, chunk);
  require(!p.each() || !(want_dx || want_dw || want_db), "linear_cross_entropy: gradients are for mean and sum");
  const bool wide = x.scalar_type() == ScalarType::Double;
  Tensor loss = empty_loss(p);
  Tensor stats = empty(x, {p.stats_size()}, wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  auto [dx, dw, db] = with_gradients(p, want_dx, want_dw, want_db, [&](const Gradients& wanted) {
    dispatch_float(x, "linear_cross_entropy", [&]<typename T>() {
      Backend::template run<T>(p, ptr<T>(loss), ptr<acc_t<T>>(stats), ptr<acc_t<T>>(stats), nullptr, wanted);
    });
  });
  return {loss, stats, dx, dw, db};
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& dloss_, const Tensor& x, const Tensor& w,
                                            const std::optional<Tensor>& b, const Tensor& target,
                                            const std::optional<Tensor>& weight, const Tensor& stats,
                                            int64_t ignore_index, double label_smoothing, int64_t reduction,
                                            int64_t chunk, bool want_dx, bool want_dw, bool want_db) {
  const Problem p(x, w, b, target, weight, {ignore_index, label_smoothing, reduction}, chunk);
  const Tensor dloss = dense(dloss_);
  require(stats.numel() == p.stats_size() && dloss.numel() == (p.each() ? p.positions() : 1),
          "linear_cross_entropy_backward: expected forward's stats and a dloss like its loss");
  return with_gradients(p, want_dx, want_dw, want_db, [&](const Gradients& wanted) {
    dispatch_float(x, "linear_cross_entropy_backward", [&]<typename T>() {
      Backend::template run<T>(p, nullptr, nullptr, ptr<acc_t<T>>(stats), ptr<T>(dloss), wanted);
    });
  });
}

template <class Backend>
void implement(Library& m) {
  m.impl(OVERLOAD("linear_cross_entropy"), TORCH_BOX(&forward<Backend>));
  m.impl(OVERLOAD("linear_cross_entropy_backward"), TORCH_BOX(&backward<Backend>));
}
REGISTER(implement)
}  // namespace
}  // namespace torchext::linear_cross_entropy
