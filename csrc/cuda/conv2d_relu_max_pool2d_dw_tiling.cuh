// How the weight gradient is cut: which channels and rows of taps a block has (its slice), which part of the images
// (its tiles, a stripe of them), and how many threads share each thread's taps. Slices first, as many as 256 threads
// ask for, then tiles as large as shared memory holds.
#pragma once
#include "conv2d_relu_max_pool2d_quads.cuh"

namespace torchext::cuda {
struct WeightTiling {
  TileShape tile;                        // of x
  int images, rows, columns;             // of dz
  int blocks, channels, lines;           // a block's: blocks of kK channels of dz, channels of x, rows of taps
  int runs, splits;                      // of kT taps in a row of them; threads that share their taps
  int64_t down, across, tiles, stripes;  // stripes of tiles: blocks that have the same slice
  int64_t block_slices, channel_slices, line_slices;

  __host__ __device__ int items() const { return blocks * channels * lines * runs; }
  unsigned threads() const { return static_cast<unsigned>(ceil_div(items() * splits, 32) * 32); }
  __host__ __device__ int64_t slices() const { return block_slices * channel_slices * line_slices; }
};

inline int64_t sums_of(const ConvShape& s) { return s.k * s.group_c() * s.r * s.s + s.k; }

inline TileShape weight_tile(const ConvShape& s, int64_t channels, int64_t lines, int64_t rows, int64_t columns,
                             int64_t taps) {
  const int64_t high = (rows - 1) * s.sh + (lines - 1) * s.dh + 1, wide = (columns - 1) * s.sw + (taps - 1) * s.dw + 1;
  // Neighbouring threads have neighbouring rows of taps, then channels: no two of a warp in one bank.
  const int64_t pitch = wide | 1, more = ((lines - high) * pitch % 32 + 32) % 32;
  return TileShape::with_pitch(channels, high, wide, pitch, more);
}

template <typename A>
WeightTiling plan_weight_tiling(const ConvShape& s, int kK, int kT) {
  constexpr int64_t kThreads = kDirectThreads;
  const int64_t runs = ceil_div(s.s, kT);
  int64_t blocks = ceil_div(s.group_k(), kK), channels = s.group_c(), lines = s.r, rows = s.p, columns = s.q;
  for (int64_t* part : {&blocks, &channels, &lines})
    while (blocks * channels * lines * runs > kThreads && *part > 1) *part = ceil_div(*part, 2);
  if (runs > kThreads) throw std::runtime_error("conv2d_relu_max_pool2d: a kernel outgrows a block");
  constexpr int64_t kRows = 4;  // that each split should have at a time
  int64_t splits = kThreads / (blocks * channels * lines * runs);
  int64_t images = std::max<int64_t>(1, std::min(s.n / processors(), kRows * splits / s.p));
  const auto bytes = [&] {
    const int64_t x = weight_tile(s, channels, lines, rows, columns, runs * kT).image;
    return images * (x + rows * columns * blocks * kK) * int64_t(sizeof(A));
  };
  struct Part {
    int64_t* size;
    int64_t least;
  };
  for (const Part part : {Part{&images, 1},
                          {&rows, 8},
                          {&columns, 32},
                          {&blocks, 1},
                          {&channels, 1},
                          {&lines, 1},
                          {&rows, 1},
                          {&columns, 1}})
    while (bytes() > kDirectShared && *part.size > part.least) *part.size = ceil_div(*part.size, 2);
  if (bytes() > kDirectShared) throw std::runtime_error("conv2d_relu_max_pool2d: a window outgrows shared memory");
  splits = std::min(kThreads / (blocks * channels * lines * runs), images * rows);
  const int64_t down = ceil_div(s.p, rows), across = ceil_div(s.q, columns);
  const int64_t tiles = ceil_div(s.n, images) * down * across;
  WeightTiling t{weight_tile(s, channels, lines, rows, columns, runs * kT),
                 static_cast<int>(images),
                 static_cast<int>(rows),
                 static_cast<int>(columns),
                 static_cast<int>(blocks),
                 static_cast<int>(channels),
                 static_cast<int>(lines),
                 static_cast<int>(runs),
                 static_cast<int>(ceil_div(images * rows, ceil_div(images * rows, splits))),
                 down,
                 across,
                 tiles,
                 0,
                 ceil_div(ceil_div(s.group_k(), kK), blocks),
                 ceil_div(s.group_c(), channels),
                 ceil_div(s.r, lines)};
  t.stripes = std::min(tiles, std::max<int64_t>(1, 2 * processors() / (t.slices() * s.groups)));
  return t;
}

// Calls run.operator()<kK, kT>(): the runs that leave the fewest taps idle.
template <typename Run>
void with_weight_block(const ConvShape& s, Run&& run) {
  with_channels(s.group_k(), [&]<int kK>() {
    if (ceil_div(s.s, 5) * 5 <= ceil_div(s.s, 3) * 3)
      run.template operator()<kK, 5>();
    else
      run.template operator()<kK, 3>();
  });
}
}  // namespace torchext::cuda
