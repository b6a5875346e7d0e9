// Strips: some rows of one image, pixel by pixel with the channels side by side, and zeros around the image; what
// Winograd's tiles are cut from and put together in. Contiguous images are transposed on the way, in registers.
#ifndef TORCHEXT_CONV2D_WINOGRAD_STRIP
#define TORCHEXT_CONV2D_WINOGRAD_STRIP
#include "transpose.h"

namespace torchext::cpu::ISA {
// Images of `channels`, of which [c0, c0 + c) are read or written, a multiple of a vector.
struct Images {
  int64_t channels, h, w;
  bool channels_last;
  int64_t c0, c;
  int64_t at(int64_t n, int64_t row, int64_t column) const {
    return channels_last ? ((n * h + row) * w + column) * channels + c0 : ((n * channels + c0) * h + row) * w + column;
  }
};

struct Place {  // of a strip in image n
  int64_t n, row, rows, column, width;
};

// `count` pixels of a row, at most a vector of them, to or from to[pixel * stride].
inline void gather_pixels(float* to, int64_t stride, const float* x, const float* mask, int64_t plane, int64_t count) {
  constexpr int L = kLanes<float>;
  auto lanes = [&](auto... first) {
    Vec<float> block[L];
    for (int i = 0; i < L; ++i) {
      block[i] = load(x + i * plane, first...);
      if (mask) block[i] = load(mask + i * plane, first...) <= 0 ? Vec<float>{} : block[i];
    }
    transpose(block);
    for (int i = 0; i < (sizeof...(first) ? count : L); ++i) store(to + i * stride, block[i]);
  };
  count == L ? lanes() : lanes(count);
}

// `beyond`: a whole vector may be written, by a store twice as fast as one under a mask;
// who follows writes the rest anew.
inline void scatter_pixels(float* y, int64_t plane, const float* from, int64_t stride, int64_t count, bool beyond) {
  constexpr int L = kLanes<float>;
  Vec<float> block[L];
  for (int i = 0; i < L; ++i) block[i] = i < count ? load(from + i * stride) : Vec<float>{};
  transpose(block);
  for (int i = 0; i < L; ++i)
    if (beyond || count == L)
      store(y + i * plane, block[i]);
    else
      store(y + i * plane, block[i], count);
}

inline void gather(float* strip, WinogradImages x, Images s, Place at) {
  constexpr int L = kLanes<float>;
  const int64_t left = std::clamp<int64_t>(-at.column, 0, at.width),
                stop = std::max(left, std::min(at.width, s.w - at.column)), plane = s.h * s.w;
  auto is_outside = [&](int64_t i) { return at.row + i < 0 || at.row + i >= s.h; };
  for (int64_t i = 0; i < at.rows; ++i) {
    float* to = strip + i * at.width * s.c;
    std::fill_n(to, (is_outside(i) ? at.width : left) * s.c, 0.0f);
    if (!is_outside(i)) std::fill(to + stop * s.c, to + at.width * s.c, 0.0f);
  }
  if (s.channels_last)
    for (int64_t i = 0; i < at.rows; ++i) {
      if (is_outside(i)) continue;
      float* to = strip + (i * at.width + left) * s.c;
      const int64_t from = s.at(at.n, at.row + i, at.column + left);
      for (int64_t j = 0; j < stop - left; ++j)
        for (int64_t c = 0; c < s.c; c += L) {
          Vec<float> v = load(x.x + from + j * s.channels + c);
          if (x.mask) v = load(x.mask + from + j * s.channels + c) <= 0 ? Vec<float>{} : v;
          store(to + j * s.c + c, v);
        }
    }
  else
    for (int64_t c = 0; c < s.c; c += L)  // a vector of channels at a time: streams of rows that lie side by side
      for (int64_t i = 0; i < at.rows; ++i)
        for (int64_t j = left; j < stop && !is_outside(i); j += L) {
          const int64_t from = s.at(at.n, at.row + i, at.column + j) + c * plane;
          gather_pixels(strip + (i * at.width + j) * s.c + c, s.c, x.x + from, x.mask ? x.mask + from : nullptr, plane,
                        std::min<int64_t>(L, stop - j));
        }
}

// The strip's part within the image.
inline void scatter(float* y, const float* strip, Images s, Place at) {
  constexpr int L = kLanes<float>;
  const int64_t rows = std::min(at.rows, s.h - at.row), stop = std::min(at.width, s.w - at.column), plane = s.h * s.w;
  if (s.channels_last)
    for (int64_t i = 0; i < rows; ++i)
      std::copy_n(strip + i * at.width * s.c, stop * s.c, y + s.at(at.n, at.row + i, at.column));
  else
    for (int64_t c = 0; c < s.c; c += L)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < stop; j += L)
          scatter_pixels(y + s.at(at.n, at.row + i, at.column + j) + c * plane, plane,
                         strip + (i * at.width + j) * s.c + c, s.c, std::min<int64_t>(L, stop - j),
                         (rows - 1 - i) * s.w >= L - (stop - j));
}
}  // namespace torchext::cpu::ISA
#endif
