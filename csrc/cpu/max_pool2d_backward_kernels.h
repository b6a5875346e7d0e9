// Max-pooling backward, by rows of dx: each element gathers the gradients of the outputs whose offset names it, in the
// order of the outputs, and is written once; no zeros first, no scatter. Bill: dy and its offsets are read once from
// memory (kh / sh times from cache), dx written once.
#include "max_pool2d_planes.h"
#include "max_pool2d_quads.h"

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

// The columns of one row of dx under windows 2 wide side by side: dy's row goes to even and odd columns,
// by tap and tap + 1.
template <int N, typename T>
TORCHEXT_INLINE inline void unpool_pair(T* dx, const T* dy, const uint8_t* offsets, int64_t tap) {
  using A = acc_t<T>;
  const auto g = load_lanes<N>(dy);
  const auto named = load_bytes<N, A>(offsets);
  store_pairs<N>(dx, named == static_cast<Int<A>>(tap) ? g : Vec<A, N>{},
                 named == static_cast<Int<A>>(tap + 1) ? g : Vec<A, N>{});
}

inline bool fits_in_pairs(const PoolShape& s) { return s.sh == 2 && s.sw == 2 && s.w == 2 * s.ow && s.h == 2 * s.oh; }

// 2 x 2 windows side by side that fit a whole number of times, as pool_pairs.
template <int N, typename T>
void unpool_dense_pairs(T* dx, const T* dy, const uint8_t* offsets, PoolShape s, int64_t row0, int64_t row1) {
  const int64_t beyond = s.ow < N ? 2 * ((N - 1) / s.ow) : 0;
  for (int64_t row = row0; row < row1; ++row)
    over_lanes<N>(0, row < row1 - beyond ? std::max<int64_t>(N, s.ow) : s.ow, [&]<int M>(int64_t j) TORCHEXT_INLINE {
      const int64_t at = row / 2 * s.ow + j;
      unpool_pair<M>(dx + row * s.w + 2 * j, dy + at, offsets + at, row % 2 * 2);
    });
}

// Windows 2 wide side by side: each dy is looked at once per row and goes to one of two neighbours.
template <typename T>
void unpool_pairs(T* dx, const T* dy, const uint8_t* offsets, PoolShape s, int64_t row0, int64_t row1) {
  constexpr int L = kLanes<acc_t<T>>;
  for (int64_t row = row0; row < row1; ++row) {
    const int64_t plane = row / s.h, p = row % s.h;
    T* out = dx + row * s.w;
    int64_t done = 0;
    Covering(p, s.oh, s.kh, s.sh, s.ph, s.dh).each([&](int64_t i, int64_t r) TORCHEXT_INLINE {
      const int64_t at = (plane * s.oh + i) * s.ow, pairs = std::min(s.ow, s.w / 2);
      over_lanes<L>(0, pairs, [&]<int N>(int64_t j) TORCHEXT_INLINE {
        unpool_pair<N>(out + 2 * j, dy + at + j, offsets + at + j, 2 * r);
      });
      done = 2 * pairs;
      if (pairs < s.ow) out[done++] = offsets[at + pairs] == 2 * r ? dy[at + pairs] : T(0);
    });
    std::fill(out + done, out + s.w, T(0));
  }
}

// What one row of dx gathers from: rows of dy, and the offset of tap (r, 0) there.
struct Line {
  int64_t at, tap;
};
inline int lines_of(Line* lines, const Covering& rows, int64_t row, const PoolShape& s) {
  int count = 0;
  rows.each([&](int64_t i, int64_t r) TORCHEXT_INLINE { lines[count++] = {(row / s.h * s.oh + i) * s.ow, r * s.kw}; });
  return count;
}

// Columns 1 or 2 (Step) apart: input columns Step j + phase, for neighbouring j,
// gather tap t from neighbouring outputs j - shift.
template <int Step, typename T>
void unpool_rows(T* dx, const T* dy, const uint8_t* offsets, PoolShape s, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  struct Tap {
    int64_t tap, shift;
  } taps[Step][kMaxTaps];
  int count[Step] = {};
  int64_t begin = 0, end = s.w / Step;  // of the j that find all their outputs
  for (int64_t t = s.kw - 1; t >= 0; --t) {
    const int64_t column = t * s.dw - s.pw, phase = column & (Step - 1), shift = (column - phase) / Step;
    taps[phase][count[phase]++] = {t, shift};
    begin = std::max(begin, shift), end = std::min(end, s.ow + shift);
  }
  begin = std::min(begin, s.w / Step), end = std::max(begin, end);
  Line lines[kMaxTaps];
  Covering rows(row0 % s.h, s.oh, s.kh, s.sh, s.ph, s.dh);
  for (int64_t row = row0; row < row1; ++row, rows.next()) {
    if (rows.p == s.h) rows = Covering(0, s.oh, s.kh, s.sh, s.ph, s.dh);
    const int line_count = lines_of(lines, rows, row, s);
    T* out = dx + row * s.w;
    auto gather = [&]<int N>(int64_t j, int phase) TORCHEXT_INLINE {
      Vec<A, N> sum{};
      for (int l = 0; l < line_count; ++l)
        for (int i = 0; i < count[phase]; ++i) {
          const int64_t at = lines[l].at + j - taps[phase][i].shift;
          sum += named<N>(dy + at, offsets + at, lines[l].tap + taps[phase][i].tap);
        }
      return sum;
    };
    auto one = [&](int64_t q) {
      A sum = 0;
      for (int l = 0; l < line_count; ++l)
        for (int i = 0; i < count[q % Step]; ++i) {
          const Tap tap = taps[q % Step][i];
          const int64_t o = q / Step - tap.shift, at = lines[l].at + o;
          if (o >= 0 && o < s.ow) sum += offsets[at] == lines[l].tap + tap.tap ? static_cast<A>(dy[at]) : A(0);
        }
      out[q] = static_cast<T>(sum);
    };
    for (int64_t q = 0; q < begin * Step; ++q) one(q);
    over_lanes<kLanes<A>>(begin, end, [&]<int N>(int64_t j) TORCHEXT_INLINE {
      if constexpr (Step == 1)
        store_lanes<N>(out + j, gather.template operator()<N>(j, 0));
      else
        store_pairs<N>(out + 2 * j, gather.template operator()<N>(j, 0), gather.template operator()<N>(j, 1));
    });
    for (int64_t q = end * Step; q < s.w; ++q) one(q);
  }
}

// Windows apart from one another: zeros, then each output writes to the one place it names. Rows beyond the range, of
// windows that reach across its ends, are another thread's.
template <typename T>
void unpool_apart(T* dx, const T* dy, const uint8_t* offsets, PoolShape s, int64_t row0, int64_t row1) {
  std::fill(dx + row0 * s.w, dx + row1 * s.w, T(0));
  int64_t tap_row[kDead + 1] = {}, place[kDead + 1] = {};
  for (int64_t tap = 0; tap < s.kh * s.kw; ++tap) tap_row[tap] = tap / s.kw, place[tap] = tap / s.kw * s.w + tap % s.kw;
  tap_row[kDead] = s.h + s.ph;  // beyond every range
  for (int64_t plane = row0 / s.h; plane * s.h < row1; ++plane) {
    const int64_t begin = std::max<int64_t>(0, row0 - plane * s.h), end = std::min(s.h, row1 - plane * s.h);
    const Covering first(begin, s.oh, s.kh, s.sh, s.ph, 1), last(end - 1, s.oh, s.kh, s.sh, s.ph, 1);
    for (int64_t i = first.first; i < last.last; ++i) {
      const int64_t at = (plane * s.oh + i) * s.ow, p = i * s.sh - s.ph;
      T* corner = dx + (plane * s.h + p) * s.w - s.pw;
      for (int64_t j = 0; j < s.ow; ++j) {
        const uint8_t tap = offsets[at + j];
        if (p + tap_row[tap] >= begin && p + tap_row[tap] < end) corner[j * s.sw + place[tap]] = dy[at + j];
      }
    }
  }
}

// Any window: the outputs above a row hand their gradients, or 0, to its columns one by one.
template <typename T>
void unpool_scattered(T* dx, const T* dy, const uint8_t* offsets, PoolShape s, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  const int64_t length = std::max(s.w, s.ow);
  Scratch<A> sums(length);
  Line lines[kMaxTaps];
  Covering rows(row0 % s.h, s.oh, s.kh, s.sh, s.ph, s.dh);
  for (int64_t row = row0; row < row1; ++row, rows.next()) {
    if (rows.p == s.h) rows = Covering(0, s.oh, s.kh, s.sh, s.ph, s.dh);
    const int line_count = lines_of(lines, rows, row, s);
    std::fill_n(static_cast<A*>(sums), length, A(0));
    for (int l = 0; l < line_count; ++l)
      for (int64_t j = 0, column = -s.pw; j < s.ow; ++j, column += s.sw) {
        const int64_t t = offsets[lines[l].at + j] - lines[l].tap;
        const bool named = t >= 0 && t < s.kw;
        sums[named ? column + t * s.dw : j] += named ? static_cast<A>(dy[lines[l].at + j]) : A(0);
      }
    for (int64_t q = 0; q < s.w; ++q) dx[row * s.w + q] = static_cast<T>(sums[q]);
  }
}

// Channels last: the outputs and taps above each column are listed once, those above a row once a row.
template <typename T>
void unpool_pixels(T* dx, const T* dy, const uint8_t* offsets, PoolShape s, int64_t row0, int64_t row1) {
  using A = acc_t<T>;
  Scratch<Line> above(s.w * std::min(s.kw, s.ow));
  Scratch<int64_t> first(s.w + 1);
  int64_t listed = 0;
  Covering columns(0, s.ow, s.kw, s.sw, s.pw, s.dw);
  for (int64_t q = 0; q < s.w; ++q, columns.next()) {
    first[q] = listed;
    columns.each([&](int64_t j, int64_t t) { above[listed++] = {j, t}; });
  }
  first[s.w] = listed;
  Line lines[kMaxTaps];
  Covering rows(row0 % s.h, s.oh, s.kh, s.sh, s.ph, s.dh);
  for (int64_t row = row0; row < row1; ++row, rows.next()) {
    if (rows.p == s.h) rows = Covering(0, s.oh, s.kh, s.sh, s.ph, s.dh);
    const int line_count = lines_of(lines, rows, row, s);
    T* out = dx + row * s.w * s.channels;
    for (int64_t q = 0; q < s.w; ++q, out += s.channels) {
      const Line *begin = above + first[q], *end = above + first[q + 1];
      if (line_count == 1 && end - begin == 1) {  // windows side by side: nothing to add up
        const int64_t at = (lines[0].at + begin->at) * s.channels, tap = lines[0].tap + begin->tap;
        over_lanes<kLanes<A>>(0, s.channels, [&]<int N>(int64_t c) TORCHEXT_INLINE {
          store_lanes<N>(out + c, named<N>(dy + at + c, offsets + at + c, tap));
        });
        continue;
      }
      over_lanes<kLanes<A>>(0, s.channels, [&]<int N>(int64_t c) TORCHEXT_INLINE {
        Vec<A, N> sum{};
        for (int l = 0; l < line_count; ++l)
          for (const Line* a = begin; a != end; ++a) {
            const int64_t at = (lines[l].at + a->at) * s.channels + c;
            sum += named<N>(dy + at, offsets + at, lines[l].tap + a->tap);
          }
        store_lanes<N>(out + c, sum);
      });
    }
  }
}

template <typename T>
void max_pool2d_backward(T* dx, const T* dy, const uint8_t* offsets, PoolShape s, int64_t row0, int64_t row1) {
  constexpr int L = kLanes<acc_t<T>>;
  if (max_pool2d_planes<T>(s)) return unpool_planes(dx, dy, offsets, s, row0 / s.h, row1 / s.h);
  auto with = [&](auto unpool) { unpool(dx, dy, offsets, s, row0, row1); };
  if (fits_in_quads<T>(s)) {  // a range may begin or end in the midst of a window
    const int64_t first = (row0 + 1) / 2, last = std::max(first, row1 / 2);
    unpool_pixels<T>(dx, dy, offsets, s, row0, std::min(row1, 2 * first));
    unpool_quads<T>(dx, dy, offsets, s, first, last);
    return unpool_pixels<T>(dx, dy, offsets, s, std::max(std::min(row1, 2 * first), 2 * last), row1);
  }
  if (s.channels > 1) return with(unpool_pixels<T>);
  const bool undilated = s.dh == 1 && s.dw == 1;
  if (undilated && s.kh == 2 && s.kw == 2 && fits_in_pairs(s))
    return s.ow > L / 2   ? with(unpool_dense_pairs<L, T>)
           : s.ow > L / 4 ? with(unpool_dense_pairs<L / 2, T>)
                          : with(unpool_dense_pairs<std::max(1, L / 4), T>);
  if (undilated && s.kh <= s.sh && s.kw == 2 && s.sw == 2 && s.pw == 0) return with(unpool_pairs<T>);
  if (s.sw == 1) return with(unpool_rows<1, T>);
  if (s.sw == 2) return with(unpool_rows<2, T>);
  if (undilated && s.kh <= s.sh && s.kw <= s.sw) return with(unpool_apart<T>);
  with(unpool_scattered<T>);
}
}  // namespace torchext::cpu::ISA
