// Images in lanes: lane i of every vector belongs to image i, so that whatever a layer does to one image is done to a
// vector of images, with neither shuffles nor tails. Coming in and going out, blocks of lanes x lanes elements are
// transposed in registers. `index` maps an image's elements, in memory order, to vectors of the scratch:
// it alone knows memory format and border.
#ifndef TORCHEXT_IMAGE_LANES
#define TORCHEXT_IMAGE_LANES
#include "transpose.h"

namespace torchext::cpu::ISA {
template <typename A>
using Ints = Vec<std::conditional_t<sizeof(A) == 8, int64_t, int32_t>, kLanes<A>>;  // as comparisons of Vec<A> give
template <typename A>
inline Ints<A> lanes_of(int64_t i) {
  return splat<Ints<A>>(static_cast<std::conditional_t<sizeof(A) == 8, int64_t, int32_t>>(i));
}

// One image of `planes` planes of h x w: element e goes to plane * plane_size + row * row_size + column, plus `first`.
struct ImageIndex {
  int64_t planes, h, w, plane_size, row_size, first;
  bool channels_last;
  int64_t size() const { return planes * h * w; }
};

inline void fill_index(int32_t* index, ImageIndex m) {
  int32_t* to = index;
  if (m.channels_last) {
    for (int64_t i = 0; i < m.h * m.w; ++i)
      for (int64_t c = 0; c < m.planes; ++c)
        *to++ = static_cast<int32_t>(m.first + c * m.plane_size + i / m.w * m.row_size + i % m.w);
  } else {
    for (int64_t c = 0; c < m.planes; ++c)
      for (int64_t i = 0; i < m.h; ++i)
        for (int64_t j = 0; j < m.w; ++j) *to++ = static_cast<int32_t>(m.first + c * m.plane_size + i * m.row_size + j);
  }
}

// scratch[index[e]] lane i = get(i, e); get reads a vector of elements e, e+1, ... of image i,
// or the first `count` of them.
template <typename V, typename E, typename Get>
inline void load_images(E* scratch, const int32_t* index, int64_t size, int64_t images, Get get) {
  constexpr int L = sizeof(V) / sizeof(E);
  auto block = [&](int64_t e, int64_t width, auto... count) {
    V rows[L];
    for (int i = 0; i < L; ++i) rows[i] = i < images ? get(i, e, count...) : V{};
    transpose(rows);
    for (int j = 0; j < width; ++j) __builtin_memcpy(scratch + index[e + j] * int64_t(L), &rows[j], sizeof(V));
  };
  int64_t e = 0;
  for (; e + L <= size; e += L) block(e, L);
  if (e < size) block(e, size - e, size - e);
}

template <typename V, typename E, typename Put>
inline void store_images(const E* scratch, const int32_t* index, int64_t size, int64_t images, Put put) {
  constexpr int L = sizeof(V) / sizeof(E);
  auto block = [&](int64_t e, int64_t width, auto... count) {
    V rows[L] = {};
    for (int j = 0; j < width; ++j) __builtin_memcpy(&rows[j], scratch + index[e + j] * int64_t(L), sizeof(V));
    transpose(rows);
    for (int i = 0; i < images; ++i) put(i, e, rows[i], count...);
  };
  int64_t e = 0;
  for (; e + L <= size; e += L) block(e, L);
  if (e < size) block(e, size - e, size - e);
}

// A byte per lane of Vec<A>.
template <typename A>
using Bytes = Vec<uint8_t, kLanes<A>>;
template <typename A>
inline Bytes<A> load_bytes(const uint8_t* p, int64_t count = kLanes<A>) {
  Bytes<A> b{};
  if (count == kLanes<A>)
    __builtin_memcpy(&b, p, sizeof b);
  else
    __builtin_memcpy(&b, p, count);
  return b;
}
template <typename A>
inline void store_bytes(uint8_t* p, Bytes<A> b, int64_t count = kLanes<A>) {
  if (count == kLanes<A>)
    __builtin_memcpy(p, &b, sizeof b);
  else
    __builtin_memcpy(p, &b, count);
}

// lane i of the result = the sum of rows[i]'s lanes; rows: as many vectors as lanes, overwritten.
template <typename V>
inline V sum_rows(V* rows) {
  constexpr int n = sizeof(V) / sizeof(rows[0][0]);
  constexpr auto lanes = std::make_integer_sequence<int, n>();
  for (int left = n / 2; left > 0; left /= 2)
    for (int i = 0; i < left; ++i)
      rows[i] = interleave_<n, 0>(rows[i], rows[i + left], lanes) + interleave_<n, 1>(rows[i], rows[i + left], lanes);
  return rows[0];
}
}  // namespace torchext::cpu::ISA
#endif
