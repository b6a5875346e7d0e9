// Tiles of a strip, transformed: of one point of all tiles one matrix [tiles, channels], a plane, which the products
// read as rows (Rows) or as gemm.h's panels (Panels). A strip is read once from L1 or L2 and each plane written once.
#ifndef TORCHEXT_CONV2D_WINOGRAD_TILES
#define TORCHEXT_CONV2D_WINOGRAD_TILES
#include "conv2d_winograd_strip.h"
#include "conv2d_winograd_transforms.h"
#include "gemm_tiles.h"

namespace torchext::cpu::ISA {
// Planes an odd number of cache lines apart share no places in L1.
inline int64_t plane_size(int64_t elements) {
  constexpr int64_t kLine = 16;
  return ((elements + kLine - 1) / kLine | 1) * kLine;
}

struct Rows {
  int64_t row, plane;
  Rows(int64_t tiles, int64_t channels) : row(channels + (channels % 512 ? 0 : 16)), plane(plane_size(tiles * row)) {}
  int64_t at(int64_t tile, int64_t c) const { return tile * row + c; }
};

struct Panels {
  static constexpr int64_t kWidth = kNR<float>;
  int64_t tiles, channels, plane;
  Panels(int64_t tiles_, int64_t channels_) : tiles(tiles_), channels(channels_), plane(plane_size(tiles * channels)) {}
  int64_t at(int64_t tile, int64_t c) const {
    const int64_t first = c / kWidth * kWidth;
    return first * tiles + tile * std::min(kWidth, channels - first) + c - first;
  }
};

// Bands of tile rows, numbered through all images, and their pieces within one image.
struct Bands {
  int64_t n, down, across, rows;  // tiles in an image; tile rows in a band
  int64_t count() const { return (n * down + rows - 1) / rows; }
  int64_t tiles() const { return rows * across; }
  // f(n, first tile row in the image, tile rows, first tile in the band) of rows [row0, row1).
  template <typename F>
  void pieces(int64_t row0, int64_t row1, F&& f) const {
    for (int64_t row = row0; row < row1;) {
      const int64_t size = std::min(row1 - row, down - row % down);
      f(row / down, row % down, size, (row - row0) * across);
      row += size;
    }
  }
};

template <typename W>
Bands bands_of(WinogradShape s, int64_t channels) {
  constexpr int64_t kBytes = 640 << 10;  // in L2
  const int64_t down = (s.p + 1) / 2, across = (s.q + 1) / 2,
                fit = kBytes / (W::kPlanes * channels * static_cast<int64_t>(sizeof(float)));
  const int64_t tiles = std::clamp<int64_t>(fit, 48, 96);
  return {s.n, down, across, std::clamp<int64_t>(tiles / across, 1, s.n * down)};
}

// to[point][tile, channel] of all tiles of a strip of tile rows, as many pixels of it as the steps take, two apart.
template <typename Down, typename Across, typename Layout>
void transform_tiles(float* to, Layout layout, const float* strip, int64_t width, int64_t channels, int64_t rows,
                     int64_t across, int64_t tile) {
  constexpr int L = kLanes<float>, kOut = Across::kOut;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < across; ++j, ++tile)
      for (int64_t c = 0; c < channels; c += L) {
        const float* from = strip + (2 * i * width + 2 * j) * channels + c;
        float* at = to + layout.at(tile, c);
        both_ways<Vec<float>, Down, Across>(
            [&](int a, int b) { return load(from + (a * width + b) * channels); },
            [&](int a, int b, Vec<float> v) { store(at + (a * kOut + b) * layout.plane, v); });
      }
}

// The strip of results from the products' planes. Adds 0 times each sum to `poison`: NaN once a sum is not finite.
template <typename W>
void finish_tiles(float* strip, const float* from, Panels layout, const float* b, Epilogue epilogue, int64_t channels,
                  int64_t rows, int64_t across, int64_t tile, Vec<float>& poison) {
  using Down = typename W::Down::Output;
  using Across = typename W::Across::Output;
  constexpr int L = kLanes<float>;
  const int64_t width = 2 * across;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < across; ++j, ++tile)
      for (int64_t c = 0; c < channels; c += L) {
        const float* at = from + layout.at(tile, c);
        const Vec<float> bias = b ? load(b + c) : Vec<float>{};
        float* to = strip + (2 * i * width + 2 * j) * channels + c;
        both_ways<Vec<float>, Down, Across>(
            [&](int p, int q) { return load(at + (p * Across::kIn + q) * layout.plane); },
            [&](int p, int q, Vec<float> v) {
              poison += 0.0f * v;
              store(to + (p * width + q) * channels, apply(epilogue, v + bias));
            });
      }
}

// sums (+)= a b, for one point: a is [m, k] by any strides, b is [k, n] in panels of b_rows rows, sums in panels of
// sums_rows rows. Blocks of kBlock steps are summed apart: at 512 channels a third of the rounding error of one sum.
inline void product(float* sums, int64_t sums_rows, const float* a, int64_t a_row, int64_t a_column, const float* b,
                    int64_t b_rows, int64_t m, int64_t n, int64_t k, bool add) {
  constexpr int64_t kBlock = std::min<int64_t>(128, kDepth<float>);
  for (int64_t j = 0; j < n; j += Panels::kWidth) {
    const int64_t width = std::min(Panels::kWidth, n - j);
    with_rows<3>(width / kLanes<float>, [&]<int kVectors>() {
      for (int64_t p = 0; p < k; p += kBlock)
        tiles<kVectors, float>(sums + j * sums_rows, {}, a + p * a_column, a_row, a_column, b + j * b_rows + p * width,
                               m, std::min(kBlock, k - p), add || p > 0);
    });
  }
}
}  // namespace torchext::cpu::ISA
#endif
