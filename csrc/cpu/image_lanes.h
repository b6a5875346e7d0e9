// Images in lanes: lane i of every vector belongs to image i, so that whatever a layer does to one image is done to a vector of
// images, with neither shuffles nor tails. Coming in and going out, blocks of lanes x lanes elements are transposed in registers.
// `index` maps an image's elements, in memory order, to vectors of the scratch: it alone knows memory format and border.
#ifndef TORCHEXT_IMAGE_LANES
#define TORCHEXT_IMAGE_LANES
#include "transpose.h"

namespace torchext::cpu::ISA {
template <typename A>
using Ints = Vec<std::conditional_t<sizeof(A) == 8, int64_t, int32_t>, kLanes<A>>;  // as comparisons of Vec<A> give
template <typename A>
inline Ints<A> lanes_of(int64_t i) { return splat<Ints<A>>(static_cast<std::conditional_t<sizeof(A) == 8, int64_t, int32_t>>(i)); }

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

// scratch[index[e]] lane i = get(i, e); get reads a vector of elements e, e+1, ... of image i, or the first `count` of them.
template <typename A, typename Get>
inline void load_images(A* scratch, const int32_t* index, int64_t size, int64_t images, Get get) {
  constexpr int L = kLanes<A>;
  auto block = [&](int64_t e, int64_t width, auto... count) {
    Vec<A> rows[L];
    for (int i = 0; i < L; ++i) rows[i] = i < images ? get(i, e, count...) : Vec<A>{};
    transpose(rows);
    for (int j = 0; j < width; ++j) store<A>(scratch + index[e + j] * int64_t(L), rows[j]);
  };
  int64_t e = 0;
  for (; e + L <= size; e += L) block(e, L);
  if (e < size) block(e, size - e, size - e);
}

template <typename A, typename Put>
inline void store_images(const A* scratch, const int32_t* index, int64_t size, int64_t images, Put put) {
  constexpr int L = kLanes<A>;
  auto block = [&](int64_t e, int64_t width, auto... count) {
    Vec<A> rows[L];
    for (int j = 0; j < L; ++j) rows[j] = j < width ? load(scratch + index[e + j] * int64_t(L)) : Vec<A>{};
    transpose(rows);
    for (int i = 0; i < images; ++i) put(i, e, rows[i], count...);
  };
  int64_t e = 0;
  for (; e + L <= size; e += L) block(e, L);
  if (e < size) block(e, size - e, size - e);
}

// Bytes travel as integers of A's size.
template <typename A>
inline Vec<A> load_bytes(const uint8_t* p) {
  Vec<uint8_t, kLanes<A>> b;
  __builtin_memcpy(&b, p, sizeof b);
  return bits<Vec<A>>(__builtin_convertvector(b, Ints<A>));
}
template <typename A>
inline Vec<A> load_bytes(const uint8_t* p, int64_t count) {
  uint8_t buffer[kLanes<A>] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = p[i];
  return load_bytes<A>(buffer);
}
template <typename A>
inline void store_bytes(uint8_t* p, Vec<A> v) {
  const auto b = __builtin_convertvector(bits<Ints<A>>(v), Vec<uint8_t, kLanes<A>>);
  __builtin_memcpy(p, &b, sizeof b);
}
template <typename A>
inline void store_bytes(uint8_t* p, Vec<A> v, int64_t count) {
  uint8_t buffer[kLanes<A>];
  store_bytes<A>(buffer, v);
  for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}

// lane i of the result = the sum of rows[i]'s lanes; rows: as many vectors as lanes, overwritten.
template <typename V>
inline V sum_rows(V* rows) {
  constexpr int n = sizeof(V) / sizeof(rows[0][0]);
  for (int left = n / 2; left > 0; left /= 2)
    for (int i = 0; i < left; ++i) {
      V low, high;
      interleave_(rows[i], rows[i + left], low, high, std::make_integer_sequence<int, n>());
      rows[i] = low + high;
    }
  return rows[0];
}
}  // namespace torchext::cpu::ISA
#endif
