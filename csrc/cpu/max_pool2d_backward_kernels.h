// Max-pooling backward, by rows of dx: each element gathers the gradients of the outputs whose offset names it, in the order
// of the outputs, and is written once; no zeros first, no scatter.
// Bill: dy and its offsets are read once from memory (kh / sh times from cache), dx written once.
namespace torchext::cpu::ISA {
// The outputs [first, last) one of whose taps can be input p; next() goes from p to p + 1.
struct Covering {
  int64_t p, first, last;
  int64_t outputs, k, stride, pad, dilation;

  Covering(int64_t p, int64_t outputs, int64_t k, int64_t stride, int64_t pad, int64_t dilation)
      : p(p), outputs(outputs), k(k), stride(stride), pad(pad), dilation(dilation) {
    const int64_t reach = p + pad - (k - 1) * dilation;
    first = reach > 0 ? (reach + stride - 1) / stride : 0;
    last = std::min(outputs, (p + pad) / stride + 1);
  }
  void next() {
    ++p;
    if (first * stride + (k - 1) * dilation < p + pad) ++first;
    if (last < outputs && last * stride <= p + pad) ++last;
  }
  // Calls f(output, tap) for each that has p as a tap.
  template <typename F>
  void each(F&& f) const {
    for (int64_t o = first; o < last; ++o) {
      const int64_t distance = p + pad - o * stride;
      if (dilation == 1)
        f(o, distance);
      else if (distance % dilation == 0)
        f(o, distance / dilation);
    }
  }
};

template <int N, typename T>
inline Vec<acc_t<T>, N> named(const T* dy, const uint8_t* offsets, int64_t tap) {  // dy where its offset is tap, else 0
  using A = acc_t<T>;
  return load_bytes<N, A>(offsets) == static_cast<Int<A>>(tap) ? load_lanes<N>(dy) : Vec<A, N>{};
}

// Windows 2 wide side by side: each dy is looked at once per row and goes to one of two neighbours.
template <typename T>
void unpool_pairs(T* dx, const T* dy, const uint8_t* offsets, const PoolShape& s, int64_t row0, int64_t row1) {
  constexpr int L = kLanes<acc_t<T>>;
  for (int64_t row = row0; row < row1; ++row) {
    const int64_t plane = row / s.h, p = row % s.h;
    T* out = dx + row * s.w;
    int64_t done = 0;
    Covering(p, s.oh, s.kh, s.sh, s.ph, s.dh).each([&](int64_t i, int64_t r) {
      const int64_t at = (plane * s.oh + i) * s.ow, pairs = std::min(s.ow, s.w / 2);
      over_lanes<L>(0, pairs, [&]<int N>(int64_t j) {
        store_pairs<N>(out + 2 * j, named<N>(dy + at + j, offsets + at + j, 2 * r),
                       named<N>(dy + at + j, offsets + at + j, 2 * r + 1));
      });
      done = 2 * pairs;
      if (pairs < s.ow) out[done++] = offsets[at + pairs] == 2 * r ? dy[at + pairs] : T(0);
    });
    std::fill(out + done, out + s.w, T(0));
  }
}

// Any window: the input columns sw j + phase are gathered in a row of their own per phase, where a tap of neighbouring outputs
// is a run of neighbours; then the rows are interleaved into dx.
template <typename T>
void unpool_rows(T* dx, const T* dy, const uint8_t* offsets, const PoolShape& s, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  constexpr int L = kLanes<A>;
  const int64_t length = (s.w + s.sw - 1) / s.sw;
  Scratch<A> sums(length * s.sw);
  Covering rows(row0 % s.h, s.oh, s.kh, s.sh, s.ph, s.dh);
  for (int64_t row = row0; row < row1; ++row, rows.next()) {
    if (rows.p == s.h) rows = Covering(0, s.oh, s.kh, s.sh, s.ph, s.dh);
    std::fill_n(static_cast<A*>(sums), length * s.sw, A(0));
    rows.each([&](int64_t i, int64_t r) {
      const int64_t at = (row / s.h * s.oh + i) * s.ow;
      for (int64_t t = s.kw - 1; t >= 0; --t) {
        const int64_t column = t * s.dw - s.pw;  // of output 0's tap
        const int64_t shift = column >= 0 ? column / s.sw : -((-column + s.sw - 1) / s.sw);
        const int64_t phase = column - shift * s.sw;
        const int64_t begin = std::max<int64_t>(0, -shift);
        const int64_t end = std::min(s.ow, (s.w - 1 - phase + s.sw) / s.sw - shift);
        A* sum = sums + phase * length + shift;
        over_lanes_once<L>(begin, end, [&]<int N>(int64_t j) {
          store_lanes<N>(sum + j, load_lanes<N>(sum + j) + named<N>(dy + at + j, offsets + at + j, r * s.kw + t));
        });
      }
    });
    T* out = dx + row * s.w;
    if (s.sw == 2) {
      over_lanes<L>(0, s.w / 2, [&]<int N>(int64_t j) {
        store_pairs<N>(out + 2 * j, load_lanes<N>(sums + j), load_lanes<N>(sums + length + j));
      });
      if (s.w % 2) out[s.w - 1] = static_cast<T>(sums[length - 1]);
    } else if (s.sw == 1) {
      over_lanes<L>(0, s.w, [&]<int N>(int64_t j) { store_lanes<N>(out + j, load_lanes<N>(sums + j)); });
    } else {
      for (int64_t phase = 0; phase < s.sw; ++phase)
        for (int64_t j = 0; j * s.sw + phase < s.w; ++j) out[j * s.sw + phase] = static_cast<T>(sums[phase * length + j]);
    }
  }
}

template <typename T>
void unpool_pixels(T* dx, const T* dy, const uint8_t* offsets, const PoolShape& s, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  Covering rows(row0 % s.h, s.oh, s.kh, s.sh, s.ph, s.dh);
  for (int64_t row = row0; row < row1; ++row, rows.next()) {
    if (rows.p == s.h) rows = Covering(0, s.oh, s.kh, s.sh, s.ph, s.dh);
    Covering columns(0, s.ow, s.kw, s.sw, s.pw, s.dw);
    for (int64_t q = 0; q < s.w; ++q, columns.next())
      over_lanes<kLanes<A>>(0, s.channels, [&]<int N>(int64_t c) {
        Vec<A, N> sum{};
        rows.each([&](int64_t i, int64_t r) {
          columns.each([&](int64_t j, int64_t t) {
            const int64_t at = ((row / s.h * s.oh + i) * s.ow + j) * s.channels + c;
            sum += named<N>(dy + at, offsets + at, r * s.kw + t);
          });
        });
        store_lanes<N>(dx + (row * s.w + q) * s.channels + c, sum);
      });
  }
}

template <typename T>
void max_pool2d_backward(T* dx, const T* dy, const uint8_t* offsets, const PoolShape& s, int64_t row0, int64_t row1) {
  if (s.channels > 1) return unpool_pixels(dx, dy, offsets, s, row0, row1);
  const bool apart = s.kh <= s.sh && s.dh == 1;
  if (apart && s.kw == 2 && s.sw == 2 && s.pw == 0 && s.dw == 1) return unpool_pairs(dx, dy, offsets, s, row0, row1);
  unpool_rows(dx, dy, offsets, s, row0, row1);
}
}  // namespace torchext::cpu::ISA
