// Batch norm, ReLU and max-pooling, backward. dz is made twice from dy and its offsets, a unit at a time: once for the
// two sums of each channel, once for dx. Under 2 x 2 windows side by side it stays in registers, and the sums look only
// at the taps that won; under others max_pool2d's kernels write it to scratch.
// Bill: x, dy and offsets are read twice, dx written once. Bound by bandwidth.
namespace torchext::cpu::ISA {
// dz of a unit; returns it.
template <typename T>
const T* unpool_unit(Scratch<T>& dz, const T* dy, const uint8_t* offsets, const BatchNormPool& s, const Unit& unit) {
  const int64_t before = unit.plane * s.pool.oh * s.pool.ow * s.pool.channels;
  PoolShape rows = s.pool;
  rows.planes = 1, rows.h = unit.rows, rows.ph += unit.row;
  ISA::max_pool2d_backward<T>(dz, dy + before, offsets + before, rows, 0, unit.rows);
  return dz;
}
template <typename T>
Scratch<T> unit_scratch(const BatchNormPool& s) {
  return Scratch<T>(std::min(s.unit_rows(), s.pool.h) * s.pool.w * s.pool.channels);
}

template <typename T>
void unit_sums(double* sums, const T* dz, const T* x, const acc_t<T>* mean, int64_t pixels, int64_t channels) {
  using A = acc_t<T>;
  if (channels == 1) {
    A total[2];
    flat_sums(total, pixels, [&]<int N>(int64_t i, auto& a, auto& b) TORCHEXT_INLINE {
      const auto g = load_lanes<N>(dz + i);
      a += g, b += g * (load_lanes<N>(x + i) - mean[0]);
    });
    sums[0] = total[0], sums[1] = total[1];
    return;
  }
  over_lanes<kLanes<A>>(0, channels, [&]<int N>(int64_t c) TORCHEXT_INLINE {
    Vec<A, N> a, b;
    const auto centre = load_lanes<N>(mean + c);
    two_sums(a, b, pixels, [&](int64_t i, auto& a, auto& b) TORCHEXT_INLINE {
      const auto g = load_lanes<N>(dz + i * channels + c);
      a += g, b += g * (load_lanes<N>(x + i * channels + c) - centre);
    });
    for (int i = 0; i < N; ++i) sums[2 * (c + i)] = a[i], sums[2 * (c + i) + 1] = b[i];
  });
}

// The sums of a plane's rows under 2 x 2 windows side by side, N <= ow outputs at a time. The last vector of a row
// begins early; the outputs that the one before it has seen count as dead.
template <int N, typename T>
void pair_sums(double* sums, const T* dy, const uint8_t* offsets, const T* x, acc_t<T> mean, int64_t oh, int64_t ow) {
  using A = acc_t<T>;
  using I = Vec<Int<A>, N>;
  I lane;
  for (int i = 0; i < N; ++i) lane[i] = i;
  Vec<A, N> a{}, b{};
  auto add = [&](int64_t j, const T* from, I tap) TORCHEXT_INLINE {
    Vec<A, N> taps[4];
    load_pairs<N>(from, taps[0], taps[1]);
    load_pairs<N>(from + 2 * ow, taps[2], taps[3]);
    const auto won = tap == 0 ? taps[0] : tap == 1 ? taps[1] : tap == 2 ? taps[2] : taps[3];
    const auto g = tap == static_cast<Int<A>>(kDead) ? Vec<A, N>{} : load_lanes<N>(dy + j);
    a += g, b += g * (won - mean);
  };
  for (int64_t i = 0; i < oh; ++i, dy += ow, offsets += ow, x += 4 * ow) {
    int64_t j = 0;
    for (; j + N <= ow; j += N) add(j, x + 2 * j, load_bytes<N, A>(offsets + j));
    if (j == ow) continue;
    const int64_t last = ow - N;
    const auto tap = load_bytes<N, A>(offsets + last);
    const auto seen = lane < static_cast<Int<A>>(j - last);
    add(last, x + 2 * last, seen ? splat<I>(static_cast<Int<A>>(kDead)) : tap);
  }
  sums[0] = sum(a), sums[1] = sum(b);
}

template <int N, typename T>
void pair_sums_of(double* sums, const T* dy, const uint8_t* offsets, const T* x, acc_t<T> mean, int64_t oh,
                  int64_t ow) {
  if constexpr (N > 1)
    if (ow < N) return pair_sums_of<N / 2>(sums, dy, offsets, x, mean, oh, ow);
  pair_sums<N>(sums, dy, offsets, x, mean, oh, ow);
}

template <typename T>
void batch_norm_sums(double* sums, const T* dy, const uint8_t* offsets, const T* x, const acc_t<T>* statistics,
                     BatchNormPool s, int64_t unit0, int64_t unit1) {
  const bool pairs = in_pairs(s.pool);
  Scratch<T> dz = unit_scratch<T>(s);
  for (int64_t u = unit0; u < unit1; ++u) {
    const Unit unit(u, s);
    const T* from = x + unit.first(s);
    const acc_t<T>* mean = statistics + unit.channel;
    double* to = sums + 2 * (unit.part * s.channels + unit.channel);
    if (pairs) {
      const int64_t at = (unit.plane * s.pool.oh + unit.row / 2) * s.pool.ow;
      pair_sums_of<kLanes<acc_t<T>>>(to, dy + at, offsets + at, from, *mean, unit.rows / 2, s.pool.ow);
    } else {
      unit_sums(to, unpool_unit(dz, dy, offsets, s, unit), from, mean, unit.pixels(s), s.pool.channels);
    }
  }
}

// dx of the vector dz.
template <int N, typename T, typename V, typename C>
TORCHEXT_INLINE inline void store_dx(T* dx, const T* x, V dz, C mean, C a, C b, C d) {
  store_lanes<N>(dx, a * (dz - b - (load_lanes<N>(x) - mean) * d));
}

template <typename T>
void unit_dx(T* dx, const T* dz, const T* x, const acc_t<T>* slopes, int64_t pixels, const BatchNormPool& s) {
  constexpr int L = kLanes<acc_t<T>>;
  const auto *mean = slopes, *a = slopes + s.channels, *b = slopes + 2 * s.channels, *d = slopes + 3 * s.channels;
  if (s.pool.channels == 1)
    return over_lanes<L>(0, pixels, [&]<int N>(int64_t i) TORCHEXT_INLINE {
      store_dx<N>(dx + i, x + i, load_lanes<N>(dz + i), *mean, *a, *b, *d);
    });
  over_lanes<L>(0, s.channels, [&]<int N>(int64_t c) TORCHEXT_INLINE {
    const auto mean_ = load_lanes<N>(mean + c), a_ = load_lanes<N>(a + c), b_ = load_lanes<N>(b + c),
               d_ = load_lanes<N>(d + c);
    for (int64_t i = c; i < pixels * s.channels; i += s.channels)
      store_dx<N>(dx + i, x + i, load_lanes<N>(dz + i), mean_, a_, b_, d_);
  });
}

// A plane's rows under 2 x 2 windows side by side.
template <typename T>
void pair_dx(T* dx, const T* dy, const uint8_t* offsets, const T* x, const acc_t<T>* slopes, int64_t oh, int64_t ow,
             int64_t channels) {
  using A = acc_t<T>;
  const A mean = slopes[0], a = slopes[channels], b = slopes[2 * channels], d = slopes[3 * channels];
  for (int64_t i = 0; i < oh; ++i, dy += ow, offsets += ow)
    over_lanes<kLanes<A>>(0, ow, [&]<int N>(int64_t j) TORCHEXT_INLINE {
      const auto g = load_lanes<N>(dy + j);
      const auto tap = load_bytes<N, A>(offsets + j);
      for (int r = 0; r < 2; ++r) {
        const int64_t at = 2 * ((2 * i + r) * ow + j);
        Vec<A, N> low, high;
        interleave_lanes_(tap == 2 * r ? g : Vec<A, N>{}, tap == 2 * r + 1 ? g : Vec<A, N>{}, low, high,
                          std::make_integer_sequence<int, N>());
        store_dx<N>(dx + at, x + at, low, mean, a, b, d);
        store_dx<N>(dx + at + N, x + at + N, high, mean, a, b, d);
      }
    });
}

template <typename T>
void batch_norm_relu_max_pool2d_backward(T* dx, const T* dy, const uint8_t* offsets, const T* x, const acc_t<T>* slopes,
                                         BatchNormPool s, int64_t unit0, int64_t unit1) {
  const bool pairs = in_pairs(s.pool);
  Scratch<T> dz = unit_scratch<T>(s);
  for (int64_t u = unit0; u < unit1; ++u) {
    const Unit unit(u, s);
    const int64_t first = unit.first(s);
    if (pairs) {
      const int64_t at = (unit.plane * s.pool.oh + unit.row / 2) * s.pool.ow;
      pair_dx(dx + first, dy + at, offsets + at, x + first, slopes + unit.channel, unit.rows / 2, s.pool.ow,
              s.channels);
    } else {
      const T* from = unpool_unit(dz, dy, offsets, s, unit);
      unit_dx(dx + first, from, x + first, slopes + unit.channel, unit.pixels(s), s);
    }
  }
}
}  // namespace torchext::cpu::ISA
