// Max-pooling with planes in lanes, for contiguous planes whose rows are short or whose windows overlap: whatever the
// window, borders included, every output is whole vectors of comparisons. A vector of planes at a time is transposed
// into scratch and back, which costs about as much as pooling nine taps. x is read and y written once.
#ifndef TORCHEXT_MAX_POOL2D_PLANES
#define TORCHEXT_MAX_POOL2D_PLANES
#include "image_lanes.h"

namespace torchext::cpu::ISA {
// Along one axis: tap 0 of output o is at input `at`; taps [first, last) are inside.
struct Taps {
  int64_t at, first, last;
  Taps(int64_t o, int64_t size, int64_t k, int64_t stride, int64_t pad, int64_t dilation)
      : at(o * stride - pad), first(0), last(k) {
    if (at < 0) first = steps(-at, dilation);
    if (at + (k - 1) * dilation >= size) last = steps(size - at, dilation);
  }
  static int64_t steps(int64_t distance, int64_t dilation) {
    return dilation == 1 ? distance : (distance + dilation - 1) / dilation;
  }
};

// Planes taken at once, 0 where rows are: 2 x 2 windows side by side need no transposing but in the shortest rows, few
// planes fill no vector, and large ones leave the second cache.
template <typename T>
int64_t max_pool2d_planes(PoolShape s) {
  using A = acc_t<T>;
  constexpr int64_t L = kLanes<A>, kScratch = 256 << 10;
  if (s.channels > 1 || s.planes < L || (s.h * s.w + s.oh * s.ow) * VECTOR_BYTES > kScratch) return 0;
  const bool side_by_side = s.kh <= s.sh && s.kw <= s.sw, pairs = side_by_side && s.kw == 2 && s.sw == 2 && s.dw == 1;
  return pairs ? (2 * s.ow < L && s.w % 2 ? L : 0) : !side_by_side || s.ow < L ? L : 0;
}

template <typename A>
struct PlaneLanes {  // the scratch of one map of a vector of planes
  static constexpr int L = kLanes<A>;
  int64_t size;
  Scratch<A> values;
  Scratch<int32_t> index;
  PlaneLanes(int64_t h, int64_t w) : size(h * w), values(size * L), index(size) {
    fill_index(index, {1, h, w, size, w, 0, false});
  }
  template <typename T>
  void read(const T* x, int64_t planes) {
    load_images<Vec<A>, A>(values, index, size, planes,
                           [&](int64_t i, int64_t e, auto... c) { return load(x + i * size + e, c...); });
  }
  template <typename T>
  void write(T* y, int64_t planes) const {
    store_images<Vec<A>, A>(values, index, size, planes,
                            [&](int64_t i, int64_t e, Vec<A> v, auto... c) { store(y + i * size + e, v, c...); });
  }
};

// f.operator()<K>() with the window's side, 2 or 3, where it is square and inside; else 0.
template <typename F>
inline void with_side(const PoolShape& s, const Taps& rows, const Taps& columns, F&& f) {
  const bool whole = rows.first == 0 && rows.last == s.kh && columns.first == 0 && columns.last == s.kw;
  if (whole && s.kh == 3 && s.kw == 3) return f.template operator()<3>();
  if (whole && s.kh == 2 && s.kw == 2) return f.template operator()<2>();
  f.template operator()<0>();
}

template <typename T>
void pool_planes(T* y, uint8_t* offsets, const T* x, PoolShape s, int64_t plane0, int64_t plane1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  PlaneLanes<A> in(s.h, s.w), out(s.oh, s.ow);
  Scratch<uint8_t> at(out.size * L);
  for (int64_t plane = plane0; plane < plane1; plane += L) {
    const int64_t planes = std::min<int64_t>(L, plane1 - plane);
    in.read(x + plane * in.size, planes);
    for (int64_t i = 0; i < s.oh; ++i) {
      const Taps rows(i, s.h, s.kh, s.sh, s.ph, s.dh);
      for (int64_t j = 0; j < s.ow; ++j) {
        const Taps columns(j, s.w, s.kw, s.sw, s.pw, s.dw);
        const bool none = rows.first >= rows.last || columns.first >= columns.last;
        auto best = splat<Vec<A>>(-std::numeric_limits<A>::infinity());
        auto tap = lanes_of<A>(none ? kDead : rows.first * s.kw + columns.first);
        with_side(s, rows, columns, [&]<int K>() {
#pragma GCC unroll 3
          for (int64_t r = K ? 0 : rows.first; r < (K ? K : rows.last); ++r)
#pragma GCC unroll 3
            for (int64_t t = K ? 0 : columns.first; t < (K ? K : columns.last); ++t) {
              const Vec<A> v = load(in.values + ((rows.at + r * s.dh) * s.w + columns.at + t * s.dw) * L);
              const Ints<A> wins = (v > best) | (v != v);
              best = wins ? v : best;
              tap = wins ? lanes_of<A>(r * s.kw + t) : tap;
            }
        });
        store<A>(out.values + (i * s.ow + j) * L, best);
        store_bytes<A>(at + (i * s.ow + j) * L, __builtin_convertvector(tap, Bytes<A>));
      }
    }
    out.write(y + plane * out.size, planes);
    if (offsets)
      store_images<Bytes<A>, uint8_t>(at, out.index, out.size, planes,
                                      [&](int64_t i, int64_t e, Bytes<A> v, auto... c) {
                                        store_bytes<A>(offsets + (plane + i) * out.size + e, v, c...);
                                      });
  }
}

template <typename T>
void unpool_planes(T* dx, const T* dy, const uint8_t* offsets, PoolShape s, int64_t plane0, int64_t plane1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  PlaneLanes<A> in(s.h, s.w), out(s.oh, s.ow);
  Scratch<uint8_t> at(out.size * L);
  for (int64_t plane = plane0; plane < plane1; plane += L) {
    const int64_t planes = std::min<int64_t>(L, plane1 - plane);
    out.read(dy + plane * out.size, planes);
    load_images<Bytes<A>, uint8_t>(at, out.index, out.size, planes, [&](int64_t i, int64_t e, auto... c) {
      return load_bytes<A>(offsets + (plane + i) * out.size + e, c...);
    });
    std::memset(in.values, 0, in.size * L * sizeof(A));
    for (int64_t i = 0; i < s.oh; ++i) {
      const Taps rows(i, s.h, s.kh, s.sh, s.ph, s.dh);
      for (int64_t j = 0; j < s.ow; ++j) {
        const Taps columns(j, s.w, s.kw, s.sw, s.pw, s.dw);
        const Vec<A> g = load(out.values + (i * s.ow + j) * L);
        const auto tap = __builtin_convertvector(load_bytes<A>(at + (i * s.ow + j) * L), Ints<A>);
        with_side(s, rows, columns, [&]<int K>() {
#pragma GCC unroll 3
          for (int64_t r = K ? 0 : rows.first; r < (K ? K : rows.last); ++r)
#pragma GCC unroll 3
            for (int64_t t = K ? 0 : columns.first; t < (K ? K : columns.last); ++t) {
              A* to = in.values + ((rows.at + r * s.dh) * s.w + columns.at + t * s.dw) * L;
              store<A>(to, load(to) + (tap == lanes_of<A>(r * s.kw + t) ? g : Vec<A>{}));
            }
        });
      }
    }
    in.write(dx + plane * in.size, planes);
  }
}
}  // namespace torchext::cpu::ISA
#endif
