// Winograd's convolution: a band of tile rows at a time, whose planes lie in L2. Bound by the multiply-add units of the
// products, one for each point; the transforms are additions, about a tenth of the time at 64 channels.
#include "conv2d_winograd_tiles.h"

namespace torchext::cpu::ISA {
// Calls f.operator()<W>() with the kind for results, or the one for the weight gradient.
template <typename F>
inline auto with_kind(WinogradShape s, F&& f) {
  return s.taps == 3 ? f.template operator()<Winograd3>()
         : s.c <= 32 ? f.template operator()<Winograd5FewChannels>()
                     : f.template operator()<Winograd5>();
}
template <typename F>
inline auto with_weight_kind(WinogradShape s, F&& f) {
  return s.taps == 3 ? f.template operator()<Winograd3>() : f.template operator()<Winograd5>();
}

inline int64_t winograd_weights_size(WinogradShape s) {
  return with_kind(s, [&]<typename W>() { return W::kPlanes * Panels(s.c, s.k).plane; });
}

// The points of w are matrices [c, k] in panels.
inline void winograd_weights(float* u, const float* w, bool flipped, WinogradShape s, int64_t c0, int64_t c1) {
  with_kind(s, [&]<typename W>() {
    constexpr int L = kLanes<float>, kWindow = W::kTaps * W::kTaps;
    const Panels to(s.c, s.k);
    Scratch<float> row(kWindow * s.k);
    for (int64_t c = c0; c < c1; ++c) {
      if (flipped)
        pack<float>(row, s.k, w + c * s.k * kWindow, 1, kWindow, kWindow, s.k);
      else
        pack<float>(row, s.k, w + c * kWindow, 1, s.c * kWindow, kWindow, s.k);
      for (int64_t k = 0; k < s.k; k += L) {
        auto tap = [&](int i, int j) {
          const int at = i * W::kTaps + j;
          return load(row + (flipped ? kWindow - 1 - at : at) * s.k + k);
        };
        both_ways<Vec<float>, typename W::Down::Weight, typename W::Across::Weight>(
            tap, [&](int i, int j, Vec<float> v) { store(u + (i * W::kAcross + j) * to.plane + to.at(c, k), v); });
      }
    }
  });
}

inline int64_t winograd_bands(WinogradShape s) {
  return with_kind(s, [&]<typename W>() { return bands_of<W>(s, s.c + s.k).count(); });
}

inline bool winograd_conv2d(float* y, WinogradImages x, const float* u, const float* b, Epilogue epilogue,
                            WinogradShape s, int64_t band0, int64_t band1) {
  return with_kind(s, [&]<typename W>() {
    const Bands bands = bands_of<W>(s, s.c + s.k);
    const Images in{s.c, s.h, s.w, s.channels_last, 0, s.c}, out{s.k, s.p, s.q, s.channels_last, 0, s.k};
    const Rows v(bands.tiles(), s.c);
    const Panels m(bands.tiles(), s.k), weights(s.c, s.k);
    const int64_t rows = std::min(bands.rows, bands.down), width = 2 * bands.across;
    Scratch<float> planes(W::kPlanes * v.plane), sums(W::kPlanes * m.plane),
        strip(std::max((2 * rows + W::kTaps - 1) * (width + W::kTaps - 1) * s.c, 2 * rows * width * s.k));
    Vec<float> poison{};
    for (int64_t row0 = band0 * bands.rows; row0 < band1 * bands.rows; row0 += bands.rows) {
      const int64_t row1 = std::min(row0 + bands.rows, bands.n * bands.down);
      bands.pieces(row0, row1, [&](int64_t n, int64_t down, int64_t size, int64_t tile) {
        gather(strip, x, in, {n, 2 * down - s.ph, 2 * size + W::kTaps - 1, -s.pw, width + W::kTaps - 1});
        transform_tiles<typename W::Down::Input, typename W::Across::Input>(planes, v, strip, width + W::kTaps - 1, s.c,
                                                                            size, bands.across, tile);
      });
      for (int p = 0; p < W::kPlanes; ++p)
        product(sums + p * m.plane, m.tiles, planes + p * v.plane, v.row, 1, u + p * weights.plane, s.c,
                (row1 - row0) * bands.across, s.k, s.c, false);
      bands.pieces(row0, row1, [&](int64_t n, int64_t down, int64_t size, int64_t tile) {
        finish_tiles<W>(strip, sums, m, b, epilogue, s.k, size, bands.across, tile, poison);
        scatter(y, strip, out, {n, 2 * down, 2 * size, 0, width});
      });
    }
    return sum(poison) == 0;
  });
}

// ---- the weight gradient ----
// A part is a block of x's channels, whose sums stay in L2 at 64 results, of a range of tile rows.
inline constexpr int64_t kPartChannels = 64, kPartRanges = 8;

struct Parts {
  int64_t blocks, ranges;
  explicit Parts(WinogradShape s) : blocks((s.c + kPartChannels - 1) / kPartChannels) {
    const int64_t bands =
        with_weight_kind(s, [&]<typename W>() { return bands_of<W>(s, std::min(s.c, kPartChannels) + s.k).count(); });
    ranges = std::clamp<int64_t>(bands, 1, std::max<int64_t>(1, kPartRanges / blocks));
  }
};

inline int64_t winograd_parts(WinogradShape s) {
  const Parts parts(s);
  return parts.blocks * parts.ranges;
}
inline int64_t winograd_db_parts(WinogradShape s) { return Parts(s).ranges; }
inline Panels part_layout(WinogradShape s) { return {std::min(s.c, kPartChannels), s.k}; }
inline int64_t winograd_part_size(WinogradShape s) {
  return with_weight_kind(s, [&]<typename W>() { return W::kPlanes * part_layout(s).plane; });
}

inline void add_pixels(float* sums, const float* strip, int64_t pixels, int64_t channels) {
  constexpr int L = kLanes<float>;
  for (int64_t c = 0; c < channels; c += L) {
    Vec<float> v{};
    for (int64_t i = 0; i < pixels; ++i) v += load(strip + i * channels + c);
    store(sums + c, load(sums + c) + v);
  }
}

inline void winograd_part(float* sums, float* db_sums, const float* x, WinogradImages dy, WinogradShape s,
                          int64_t part) {
  with_weight_kind(s, [&]<typename W>() {
    const Parts parts(s);
    const int64_t range = part % parts.ranges, c0 = part / parts.ranges * kPartChannels,
                  c = std::min(kPartChannels, s.c - c0);
    const Bands bands = bands_of<W>(s, c + s.k);
    const Images in{s.c, s.h, s.w, s.channels_last, c0, c}, out{s.k, s.p, s.q, s.channels_last, 0, s.k};
    const Rows v(bands.tiles(), c);
    const Panels d(bands.tiles(), s.k), to = part_layout(s);
    const int64_t rows = std::min(bands.rows, bands.down), width = 2 * bands.across, all = bands.n * bands.down,
                  share = (all + parts.ranges - 1) / parts.ranges, stop = std::min(all, (range + 1) * share);
    Scratch<float> x_planes(W::kPlanes * v.plane), dy_planes(W::kPlanes * d.plane),
        strip(std::max((2 * rows + W::kTaps - 1) * (width + W::kTaps - 1) * c, 2 * rows * width * s.k));
    float* db = db_sums && c0 == 0 ? db_sums + range * s.k : nullptr;
    if (db) std::fill_n(db, s.k, 0.0f);
    if (range * share >= stop) std::fill_n(sums, winograd_part_size(s), 0.0f);
    for (int64_t row0 = range * share; row0 < stop; row0 += bands.rows) {
      const int64_t row1 = std::min(row0 + bands.rows, stop);
      bands.pieces(row0, row1, [&](int64_t n, int64_t down, int64_t size, int64_t tile) {
        gather(strip, {x, nullptr}, in, {n, 2 * down - s.ph, 2 * size + W::kTaps - 1, -s.pw, width + W::kTaps - 1});
        transform_tiles<typename W::Down::Input, typename W::Across::Input>(x_planes, v, strip, width + W::kTaps - 1, c,
                                                                            size, bands.across, tile);
        gather(strip, dy, out, {n, 2 * down, 2 * size, 0, width});
        transform_tiles<typename W::Down::Result, typename W::Across::Result>(dy_planes, d, strip, width, s.k, size,
                                                                              bands.across, tile);
        if (db) add_pixels(db, strip, 2 * size * width, s.k);
      });
      for (int p = 0; p < W::kPlanes; ++p)
        product(sums + p * to.plane, to.tiles, x_planes + p * v.plane, 1, v.row, dy_planes + p * d.plane, d.tiles, c,
                s.k, (row1 - row0) * bands.across, row0 > range * share);
    }
  });
}

inline bool winograd_dw(float* dw, const float* sums, WinogradShape s, int64_t c0, int64_t c1) {
  return with_weight_kind(s, [&]<typename W>() {
    constexpr int L = kLanes<float>, kWindow = W::kTaps * W::kTaps;
    constexpr int64_t kChannels = kWinogradChannels;
    const Parts parts(s);
    const Panels from = part_layout(s);
    const int64_t size = winograd_part_size(s);
    Scratch<float> taps(kChannels * kWindow * s.k);
    Vec<float> poison{};
    for (; c0 < c1; c0 += kChannels) {
      const float* first = sums + c0 / kPartChannels * parts.ranges * size;
      for (int64_t c = 0; c < kChannels; ++c)
        for (int64_t k = 0; k < s.k; k += L) {
          const float* block = first + from.at((c0 + c) % kPartChannels, k);
          auto point = [&](int i, int j) {
            const float* at = block + (i * W::kAcross + j) * from.plane;
            Vec<float> v = load(at);
            for (int64_t range = 1; range < parts.ranges; ++range) v += load(at + range * size);
            return v;
          };
          both_ways<Vec<float>, typename W::Down::Gradient, typename W::Across::Gradient>(
              point, [&](int i, int j, Vec<float> v) {
                poison += 0.0f * v;
                store(taps + (c * kWindow + i * W::kTaps + j) * s.k + k, v);
              });
        }
      pack<float>(dw + c0 * kWindow, s.c * kWindow, taps, 1, s.k, s.k, kChannels * kWindow);
    }
    return sum(poison) == 0;
  });
}

inline constexpr WinogradKernels kWinogradKernels{.weights_size = winograd_weights_size,
                                                  .weights = winograd_weights,
                                                  .bands = winograd_bands,
                                                  .forward = winograd_conv2d,
                                                  .parts = winograd_parts,
                                                  .db_parts = winograd_db_parts,
                                                  .part_size = winograd_part_size,
                                                  .part = winograd_part,
                                                  .dw = winograd_dw};
}  // namespace torchext::cpu::ISA
