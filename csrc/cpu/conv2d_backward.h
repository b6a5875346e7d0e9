// Direct convolution for few channels: backward. dz, the gradient before ReLU and pooling, exists for one vector of
// images at a time, in scratch: masked or put back at the pooling taps as dy comes in. x and dy are read once, dx
// written once; weight gradients collect in vectors, a lane per image,
// and their lanes are summed once per range of images.
#ifndef TORCHEXT_CONV2D_BACKWARD
#define TORCHEXT_CONV2D_BACKWARD
#include "conv2d_rows.h"
#include "conv2d_winners.h"

namespace torchext::cpu::ISA {
inline constexpr int kTaps = 5;
inline constexpr int64_t kStrip = 16384;  // bytes of dz that the weight gradient keeps in the first cache

template <typename T>
int64_t conv2d_pack_dx_size(ConvShape s) {
  return s.groups * block_count(s.group_c()) * block_of(s.group_c()) * s.group_k() * s.r * s.s;
}

// packed: [groups][blocks of c][s][r][k][c within the block]
template <typename T>
void conv2d_pack_dx(acc_t<T>* packed, const T* w, ConvShape s) {
  const int64_t size = block_of(s.group_c()), area = s.r * s.s;
  for (int64_t g = 0; g < s.groups; ++g)
    for (int64_t i = 0; i < block_count(s.group_c()); ++i)
      for (int64_t column = 0; column < s.s; ++column)
        for (int64_t row = 0; row < s.r; ++row)
          for (int64_t k = 0; k < s.group_k(); ++k) {
            const int64_t c0 = block_at(i, size, s.group_c()).first;
            const T* from = w + ((g * s.group_k() + k) * s.group_c() + c0) * area + row * s.s + column;
            for (int64_t c = 0; c < size; ++c) *packed++ = static_cast<acc_t<T>>(from[c * area]);
          }
}

// Calls f with 2 where the pooling windows are 2 x 2 and tile the image or part of it, so that the loops over a window
// unroll; else with 0, for windows of any kind.
template <typename F>
inline void with_window(ConvShape s, const ConvPool& pool, F&& f) {
  const bool inside =
      pool.ph == 0 && pool.pw == 0 && pool.sh == 2 && pool.sw == 2 && 2 * pool.p <= s.p && 2 * pool.q <= s.q;
  if (inside && pool.kh == 2 && pool.kw == 2)
    f.template operator()<2>();
  else
    f.template operator()<0>();
}

// dz[k] = dy[k] at its taps, else 0; returns the sum of what was put.
template <int kWindow, typename A>
inline Vec<A> unpool_plane(A* dz, const A* dy, const uint8_t* offsets, int64_t rows, int64_t columns,
                           const ConvPool& pool) {
  constexpr int L = kLanes<A>;
  if (!kWindow || rows != kWindow * pool.p || columns != kWindow * pool.q)
    std::memset(dz, 0, rows * columns * L * sizeof(A));
  Vec<A> total{};
  for (int64_t p = 0; p < pool.p; ++p) {
    const int64_t p0 = p * pool.sh - pool.ph, i0 = kWindow ? 0 : std::max<int64_t>(0, -p0);
    const int64_t i1 = kWindow ? kWindow : std::min(pool.kh, rows - p0);
    for (int64_t q = 0; q < pool.q; ++q) {
      const int64_t q0 = q * pool.sw - pool.pw, j0 = kWindow ? 0 : std::max<int64_t>(0, -q0);
      const int64_t j1 = kWindow ? kWindow : std::min(pool.kw, columns - q0);
      const Vec<A> g = load(dy + (p * pool.q + q) * L);
      const auto at = __builtin_convertvector(load_bytes<A>(offsets + (p * pool.q + q) * L), Ints<A>);
      total += at == lanes_of<A>(kDead) ? Vec<A>{} : g;
#pragma GCC unroll 2
      for (int64_t i = i0; i < i1; ++i)
#pragma GCC unroll 2
        for (int64_t j = j0; j < j1; ++j) {
          A* to = dz + ((p0 + i) * columns + q0 + j) * L;
          const Vec<A> v = at == lanes_of<A>(i * pool.kw + j) ? g : Vec<A>{};
          store<A>(to, kWindow ? v : load(to) + v);
        }
    }
  }
  return total;
}

// Memory that is wanted next, fetched a little at a time while the multiply-add units are busy: of a first layer dy
// comes from far away, and waiting for it takes a quarter of the time.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const void* from, int64_t bytes, int64_t calls)
      : at_(static_cast<const char*>(from)), end_(at_ + bytes), step_((bytes + calls - 1) / calls) {}
  void fetch() {
    for (const char* stop = std::min(end_, at_ + step_); at_ < stop; at_ += kLine) __builtin_prefetch(at_, 0, 2);
  }

 private:
  static constexpr int64_t kLine = 64;
  const char *at_ = nullptr, *end_ = nullptr;
  int64_t step_ = 0;
};

// How the weight gradient walks over vectors of dz and of x: distances in scalars.
struct Walk {
  int64_t columns, dz_plane;         // vectors in a row of dz
  int64_t x_group, x_row, x_column;  // from a group's channels, a row and a vector of dz to the next
};

// sums += dz times x at every tap; sums: [k][group_c * r * s] vectors.
template <typename A>
inline void weight_gradient(A* sums, const A* dz, const A* xs, const int32_t* taps, ConvShape s, Walk walk,
                            Ahead ahead = {}) {
  constexpr int L = kLanes<A>;
  const int64_t count = s.group_c() * s.r * s.s;
  const int64_t size = block_of(s.group_k()) == 6 ? 3 : block_of(s.group_k());  // 4 x kTaps accumulators
  const int64_t strip = std::max<int64_t>(1, kStrip / static_cast<int64_t>(size * walk.columns * L * sizeof(A)));
  for (int64_t g = 0; g < s.groups; ++g)
    for (int64_t p = 0; p < s.p; p += strip) {
      const A* x = xs + g * walk.x_group + p * walk.x_row;
      for (int64_t i = 0; i < s.group_k(); i += size) {
        const int64_t first = std::min(i, s.group_k() - size), k = g * s.group_k() + first;
        with_block(size, [&]<int kK>() {
          auto tile = [&]<int kT>(int64_t t, int64_t skip) {
            ahead.fetch();
            weight_tile<kK, kT>(sums + (k * count + t) * L, count * L, dz + k * walk.dz_plane + p * walk.columns * L,
                                walk.dz_plane, x, taps + t, std::min(strip, s.p - p), walk.columns, walk.x_row,
                                walk.x_column, i - first, skip);
          };
          if (count < kTaps)
            for (int64_t t = 0; t < count; ++t) tile.template operator()<1>(t, 0);
          else
            for (int64_t t = 0; t < count; t += kTaps) {
              const int64_t t0 = std::min(t, count - kTaps);
              tile.template operator()<kTaps>(t0, t - t0);
            }
        });
      }
    }
}

// to[i] = the sum of the lanes of vector i; a vector's worth of vectors past the last is read.
template <typename A>
inline void sum_lanes(A* to, const A* sums, int64_t count) {
  constexpr int L = kLanes<A>;
  for (int64_t i = 0; i < count; i += L) {
    Vec<A> block[L];
    for (int j = 0; j < L; ++j) block[j] = load(sums + (i + j) * L);
    const Vec<A> v = sum_rows(block);
    if (i + L <= count)
      store<A>(to + i, v);
    else
      store<A>(to + i, v, count - i);
  }
}

// dw and db with pixels in lanes, which are 0 in dz past the end of a row. Whether they are finite: 0 times what is not
// would be NaN where the plain sum has no such product.
template <typename T>
bool weight_gradient_rows(ConvGradients<T> f, ConvShape s, int64_t n0, int64_t n1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  PaddedImage<A> image(s);
  const int64_t across = row_vectors<A>(s), plane = (s.p * across | 1) * L, count = s.c * s.r * s.s,
                weights = s.k * count;
  Scratch<int32_t> taps(count);
  for (int64_t t = 0; t < count; ++t)
    taps[t] = static_cast<int32_t>(t / (s.r * s.s) * image.plane + t / s.s % s.r * s.dh * image.row + t % s.s * s.dw);
  const int64_t tiles = block_count(s.k) * ((count + kTaps - 1) / kTaps);
  Scratch<A> dz(s.k * plane), sums((weights + s.k + L) * L);
  std::memset(sums, 0, (weights + s.k + L) * L * sizeof(A));
  for (int64_t n = n0; n < n1; ++n) {
    image.fill(f.x + n * s.c * s.h * s.w);
    for (int64_t k = 0; k < s.k; ++k) {
      Vec<A> total{};
      for (int64_t p = 0; p < s.p; ++p) {
        const int64_t from = ((n * s.k + k) * s.p + p) * s.q;
        for (int64_t j = 0; j < s.q; j += L) {
          auto lanes = [&](auto... first) {
            const Vec<A> g = load(f.dy + from + j, first...);
            return f.y ? (load(f.y + from + j, first...) <= 0 ? Vec<A>{} : g) : g;
          };
          const Vec<A> g = j + L <= s.q ? lanes() : lanes(s.q - j);
          store<A>(dz + k * plane + p * across * L + j, g);
          total += g;
        }
      }
      A* sum = sums + (weights + k) * L;
      store<A>(sum, load(sum) + total);
    }
    const int64_t results = n + 1 < n1 ? s.k * s.p * s.q : 0;
    weight_gradient<A>(sums, dz, image.data, taps, s, {across, plane, 0, s.sh * image.row, L},
                       Ahead(f.dy + (n + 1) * s.k * s.p * s.q, results * static_cast<int64_t>(sizeof(T)), tiles));
  }
  sum_lanes<A>(f.sums, sums, weights + s.k);
  A poison = 0;
  for (int64_t i = 0; i < weights; ++i) poison += 0 * f.sums[i];
  return poison == 0;
}

// dxs += dz times w, all of dxs but its border's rows: a row gathers from the rows of dz that read it,
// columns are scattered to.
template <typename A>
inline void input_gradient(A* dxs, const A* dz, const A* packed, ConvShape s) {
  constexpr int L = kLanes<A>;
  const int64_t wp = s.w + 2 * s.pw, plane = dz_plane(s) * L;
  const int64_t size = block_of(s.group_c()), blocks = block_count(s.group_c());
  Scratch<const A*> from(s.r), weights(s.r);
  for (int64_t g = 0; g < s.groups; ++g)
    for (int64_t i = 0; i < blocks; ++i) {
      const Block block = block_at(i, size, s.group_c());
      for (int64_t h = s.ph; h < s.ph + s.h; ++h)
        for (int64_t column = 0; column < s.s; ++column) {
          int64_t rows = 0;
          for (int64_t r = 0; r < s.r; ++r) {
            const int64_t top = h - r * s.dh;
            if (top < 0 || top % s.sh != 0 || top / s.sh >= s.p) continue;
            from[rows] = dz + g * s.group_k() * plane + top / s.sh * s.q * L;
            weights[rows++] = packed + (((g * blocks + i) * s.s + column) * s.r + r) * s.group_k() * size;
          }
          A* to = dxs + ((g * s.group_c() + block.first) * x_plane(s) + h * wp + column * s.dw) * L;
          with_block(size, [&]<int kC>() {
            for_pixels(s.q, [&]<int kQ>(int64_t q, int64_t skip) {
              input_tile<kC, kQ, A>(to, x_plane(s) * L, s.sw * L, from, weights, rows, s.group_k(), plane, q,
                                    block.skip, skip);
            });
          });
        }
    }
}

template <typename T>
void conv2d_backward(ConvGradients<T> f, ConvShape s, const ConvPool* pool, int64_t n0, int64_t n1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  if (f.sums && !pool && prefers_rows<A>(s) && weight_gradient_rows(f, s, n0, n1)) f.sums = nullptr;
  if (!f.sums && !f.dx) return;
  if (pool && prefers_winners<A>(s, *pool) && winner_gradients(f, s, *pool, n0, n1)) return;
  const int64_t wp = s.w + 2 * s.pw, x_vectors = s.c * x_plane(s);
  const int64_t rows = pool ? pool->p : s.p, columns = pool ? pool->q : s.q, plane = rows * columns;
  const int64_t count = s.group_c() * s.r * s.s, weights = s.k * count;
  const ImageIndex x_map{s.c, s.h, s.w, x_plane(s), wp, s.ph * wp + s.pw, s.channels_last};
  const ImageIndex y_map{s.k, rows, columns, pool ? plane : dz_plane(s), columns, 0, s.channels_last};
  const int64_t x_size = x_map.size(), y_size = y_map.size();

  Scratch<int32_t> x_index(x_size), y_index(y_size), taps(count);
  fill_index(x_index, x_map);
  fill_index(y_index, y_map);
  for (int64_t t = 0; t < count; ++t)
    taps[t] = static_cast<int32_t>((t / (s.r * s.s) * x_plane(s) + t / s.s % s.r * s.dh * wp + t % s.s * s.dw) * L);
  Scratch<A> xs(f.sums ? x_vectors * L : 0), dxs(f.dx ? x_vectors * L : 0), dz(s.k * dz_plane(s) * L);
  Scratch<A> dys(pool ? y_size * L : 0), sums(f.sums ? (weights + s.k + L) * L : 0);
  Scratch<uint8_t> at(pool ? y_size * L : 0);
  if (f.sums) std::memset(xs, 0, x_vectors * L * sizeof(A)), std::memset(sums, 0, (weights + s.k + L) * L * sizeof(A));

  for (int64_t n = n0; n < n1; n += L) {
    const int64_t images = std::min<int64_t>(L, n1 - n);
    const T *x = f.x + n * x_size, *dy = f.dy + n * y_size, *y = f.y ? f.y + n * y_size : nullptr;
    load_images<Vec<A>, A>(pool ? dys : dz, y_index, y_size, images, [&](int64_t i, int64_t e, auto... c) {
      const Vec<A> g = load(dy + i * y_size + e, c...);
      return y ? (load(y + i * y_size + e, c...) <= 0 ? Vec<A>{} : g) : g;
    });
    if (pool) {
      const uint8_t* bytes = f.offsets + n * y_size;
      load_images<Bytes<A>, uint8_t>(at, y_index, y_size, images, [&](int64_t i, int64_t e, auto... c) {
        return load_bytes<A>(bytes + i * y_size + e, c...);
      });
    }
    for (int64_t k = 0; k < s.k; ++k) {
      Vec<A> total{};
      A* to = dz + k * dz_plane(s) * L;
      if (pool)
        with_window(s, *pool, [&]<int kWindow>() {
          total = unpool_plane<kWindow, A>(to, dys + k * plane * L, at + k * plane * L, s.p, s.q, *pool);
        });
      else if (f.sums)
        for (int64_t i = 0; i < plane; ++i) total += load(to + i * L);
      A* sum = sums + (weights + k) * L;
      if (f.sums) store<A>(sum, load(sum) + total);
    }
    if (f.sums) {
      load_images<Vec<A>, A>(xs, x_index, x_size, images,
                             [&](int64_t i, int64_t e, auto... c) { return load(x + i * x_size + e, c...); });
      weight_gradient<A>(sums, dz, xs, taps, s,
                         {s.q, dz_plane(s) * L, s.group_c() * x_plane(s) * L, s.sh * wp * L, s.sw * L});
    }
    if (f.dx) {
      T* dx = f.dx + n * x_size;
      std::memset(dxs, 0, x_vectors * L * sizeof(A));
      input_gradient<A>(dxs, dz, f.packed, s);
      store_images<Vec<A>, A>(dxs, x_index, x_size, images,
                              [&](int64_t i, int64_t e, Vec<A> v, auto... c) { store(dx + i * x_size + e, v, c...); });
    }
  }
  if (f.sums) sum_lanes<A>(f.sums, sums, weights + s.k);
}
}  // namespace torchext::cpu::ISA
#endif
