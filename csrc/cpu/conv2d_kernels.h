// Direct convolution for few channels, where a BLAS would spend its time on packing: forward. A vector of images at a
// time is transposed into scratch with its zero border, x is read once and y (or the pooled y and its offsets) written
// once; between them everything stays in the caches nearest the core, and the multiply-add units are the bound.
#include "conv2d_backward.h"

namespace torchext::cpu::ISA {
template <typename T>
int64_t conv2d_images(ConvShape s, const ConvPool* pool) {
  return !pool && prefers_rows<acc_t<T>>(s) ? 1 : kLanes<acc_t<T>>;
}

template <typename T>
int64_t conv2d_backward_images(ConvShape s, const ConvPool* pool, bool wants_dx) {
  if (pool && prefers_winners<acc_t<T>>(s, *pool)) return kWinnerImages;
  return wants_dx ? kLanes<acc_t<T>> : conv2d_images<T>(s, pool);
}

template <typename T>
int64_t conv2d_pack_size(ConvShape s) {
  return s.groups * block_count(s.group_k()) * block_of(s.group_k()) * s.group_c() * s.r * s.s;
}

// packed: [groups][blocks of k][c][r][s][k within the block]
template <typename T>
void conv2d_pack(acc_t<T>* packed, const T* w, ConvShape s) {
  const int64_t size = block_of(s.group_k()), taps = s.group_c() * s.r * s.s;
  for (int64_t g = 0; g < s.groups; ++g)
    for (int64_t i = 0; i < block_count(s.group_k()); ++i) {
      const T* from = w + (g * s.group_k() + block_at(i, size, s.group_k()).first) * taps;
      for (int64_t t = 0; t < taps; ++t)
        for (int64_t k = 0; k < size; ++k) *packed++ = static_cast<acc_t<T>>(from[k * taps + t]);
    }
}

// One pooled row of one channel. rows[i]: the row of z under the window's row first + i.
// kWindow: as with_window() chose.
template <int kWindow, typename A>
inline void pool_row(A* y, uint8_t* offsets, const A* const* rows, int64_t first, int64_t count, int64_t z_columns,
                     const ConvPool& pool) {
  constexpr int L = kLanes<A>;
  for (int64_t q = 0; q < pool.q; ++q) {
    const int64_t q0 = q * pool.sw - pool.pw;
    const int64_t begin = kWindow ? 0 : std::max<int64_t>(0, -q0),
                  end = kWindow ? kWindow : std::min(pool.kw, z_columns - q0);
    auto best = splat<Vec<A>>(-std::numeric_limits<A>::infinity());
    auto at = lanes_of<A>(kDead);
#pragma GCC unroll 2
    for (int64_t i = 0; i < (kWindow ? kWindow : count); ++i)
#pragma GCC unroll 2
      for (int64_t j = begin; j < end; ++j) {
        const Vec<A> v = load(rows[i] + (q0 + j) * L);
        const Ints<A> better = (v > best) | (v != v);
        best = better ? v : best;
        at = better ? lanes_of<A>((first + i) * pool.kw + j) : at;
      }
    const Ints<A> dead = best <= 0;
    store<A>(y + q * L, dead ? Vec<A>{} : best);
    store_bytes<A>(offsets + q * L, __builtin_convertvector(dead ? lanes_of<A>(kDead) : at, Bytes<A>));
  }
}

template <typename T>
void conv2d(T* y, uint8_t* offsets, const T* x, const acc_t<T>* packed, const T* b, Epilogue epilogue, ConvShape s,
            const ConvPool* pool, int64_t n0, int64_t n1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  if (!pool && prefers_rows<A>(s)) return conv2d_rows(y, x, packed, b, epilogue, s, n0, n1);
  const int64_t wp = s.w + 2 * s.pw, taps = s.group_c() * s.r * s.s;
  const int64_t rows = pool ? pool->p : s.p, columns = pool ? pool->q : s.q, plane = rows * columns;
  const int64_t size = block_of(s.group_k()), blocks = block_count(s.group_k());
  const int64_t staged = s.channels_last ? s.k : size;  // planes of y kept until they are written out
  const ImageIndex x_map{s.c, s.h, s.w, x_plane(s), wp, s.ph * wp + s.pw, s.channels_last};
  const ImageIndex y_map{staged, rows, columns, plane, columns, 0, s.channels_last};
  const Taps t{s.group_c(), s.r, s.s, x_plane(s) * L, s.dh * wp * L, s.dw * L};

  Scratch<int32_t> x_index(x_map.size()), y_index(y_map.size());
  fill_index(x_index, x_map);
  fill_index(y_index, y_map);
  Scratch<A> xs(s.c * x_plane(s) * L), ys(staged * plane * L), bias(s.k);
  Scratch<uint8_t> at(pool ? staged * plane * L : 0);
  Scratch<A> z(pool ? size * pool->kh * s.q * L : 0);  // the last kh rows before pooling: row p in slot p % kh
  std::memset(xs, 0, s.c * x_plane(s) * L * sizeof(A));
  for (int64_t k = 0; k < s.k; ++k) bias[k] = b ? static_cast<A>(b[k]) : A(0);

  for (int64_t n = n0; n < n1; n += L) {
    const int64_t images = std::min<int64_t>(L, n1 - n), x_size = x_map.size(), y_size = s.k * plane;
    const T* from = x + n * x_size;
    load_images<Vec<A>, A>(xs, x_index, x_size, images,
                           [&](int64_t i, int64_t e, auto... c) { return load(from + i * x_size + e, c...); });
    auto write = [&](int64_t first, int64_t count) {
      T* to = y + n * y_size + first;
      store_images<Vec<A>, A>(ys, y_index, count, images,
                              [&](int64_t i, int64_t e, Vec<A> v, auto... c) { store(to + i * y_size + e, v, c...); });
      if (!pool) return;
      uint8_t* bytes = offsets + n * y_size + first;
      store_images<Bytes<A>, uint8_t>(at, y_index, count, images, [&](int64_t i, int64_t e, Bytes<A> v, auto... c) {
        store_bytes<A>(bytes + i * y_size + e, v, c...);
      });
    };
    for (int64_t g = 0; g < s.groups; ++g)
      for (int64_t i = 0; i < blocks; ++i) {
        const int64_t k0 = g * s.group_k() + block_at(i, size, s.group_k()).first;
        const A* weights = packed + (g * blocks + i) * taps * size;
        const int64_t stage = s.channels_last ? k0 * plane * L : 0;
        with_block(size, [&]<int kK>() {
          auto row = [&](A* to, int64_t to_plane, int64_t p) {
            const A* in = xs + (g * s.group_c() * x_plane(s) + p * s.sh * wp) * L;
            for_pixels(s.q, [&]<int kQ>(int64_t q, int64_t) {
              forward_tile<kK, kQ>(to + q * L, to_plane, in + q * s.sw * L, s.sw * L, weights, bias + k0,
                                   pool ? Epilogue::kNone : epilogue, t);
            });
          };
          if (!pool) {
            for (int64_t p = 0; p < s.p; ++p) row(ys + stage + p * s.q * L, plane * L, p);
            return;
          }
          int64_t done = 0;
          const A* window[kDead];
          for (int64_t pp = 0; pp < pool->p; ++pp) {
            const int64_t p0 = pp * pool->sh - pool->ph, begin = std::max<int64_t>(0, p0),
                          end = std::min(s.p, p0 + pool->kh);
            for (done = std::max(done, begin); done < end; ++done)
              row(z + done % pool->kh * s.q * L, pool->kh * s.q * L, done);
            for (int k = 0; k < kK; ++k) {
              for (int64_t p = begin; p < end; ++p) window[p - begin] = z + (k * pool->kh + p % pool->kh) * s.q * L;
              const int64_t to = stage + (k * plane + pp * columns) * L;
              with_window(s, *pool, [&]<int kWindow>() {
                pool_row<kWindow, A>(ys + to, at + to, window, begin - p0, end - begin, s.q, *pool);
              });
            }
          }
        });
        if (!s.channels_last) write(k0 * plane, size * plane);
      }
    if (s.channels_last) write(0, y_size);
  }
}

template <typename T>
void conv2d_epilogue_pass(T* y, Epilogue epilogue, int64_t n) {
  auto pass = [&](int64_t i, auto... count) { store(y + i, apply(epilogue, load(y + i, count...)), count...); };
  constexpr int L = kLanes<acc_t<T>>;
  int64_t i = 0;
  for (; i + L <= n; i += L) pass(i);
  if (i < n) pass(i, n - i);
}

template <typename T>
void conv2d_mask_pass(T* dz, const T* dy, const T* y, int64_t n) {
  auto pass = [&](int64_t i, auto... count) {
    const auto g = load(dy + i, count...);
    store(dz + i, load(y + i, count...) <= 0 ? decltype(g + g){} : g, count...);
  };
  constexpr int L = kLanes<acc_t<T>>;
  int64_t i = 0;
  for (; i + L <= n; i += L) pass(i);
  if (i < n) pass(i, n - i);
}

template <typename T>
inline constexpr ConvKernels<T> kConvKernels{.images = conv2d_images<T>,
                                             .backward_images = conv2d_backward_images<T>,
                                             .pack_size = conv2d_pack_size<T>,
                                             .pack = conv2d_pack<T>,
                                             .pack_dx_size = conv2d_pack_dx_size<T>,
                                             .pack_dx = conv2d_pack_dx<T>,
                                             .forward = conv2d<T>,
                                             .backward = conv2d_backward<T>,
                                             .epilogue_pass = conv2d_epilogue_pass<T>,
                                             .mask_pass = conv2d_mask_pass<T>};
}  // namespace torchext::cpu::ISA
