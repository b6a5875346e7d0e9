// Winograd's transforms of one row, F(2, 3) and F(2, 5), and of a tile both ways. F(2, 5) is F(2, 3) on the first three
// taps and F(2, 2) on the last two: 7 products a row where interpolation at 6 points needs fractions that cost four
// times stock's rounding error at 64 channels; this costs none.
#ifndef TORCHEXT_CONV2D_WINOGRAD_TRANSFORMS
#define TORCHEXT_CONV2D_WINOGRAD_TRANSFORMS

namespace torchext::cpu::ISA {
// Each step reads kIn elements and writes kOut.
template <int kTaps>
struct Winograd;

template <>
struct Winograd<3> {
  static constexpr int kTile = 4, kPoints = 4;
  struct Input {  // B^T
    static constexpr int kIn = kTile, kOut = kPoints;
    template <typename V>
    static void apply(V* to, const V* from) {
      to[0] = from[0] - from[2];
      to[1] = from[1] + from[2];
      to[2] = from[2] - from[1];
      to[3] = from[1] - from[3];
    }
  };
  struct Weight {  // G
    static constexpr int kIn = 3, kOut = kPoints;
    template <typename V>
    static void apply(V* to, const V* from) {
      const V outer = from[0] + from[2];
      to[0] = from[0];
      to[1] = 0.5f * (outer + from[1]);
      to[2] = 0.5f * (outer - from[1]);
      to[3] = from[2];
    }
  };
  struct Output {  // A^T
    static constexpr int kIn = kPoints, kOut = 2;
    template <typename V>
    static void apply(V* to, const V* from) {
      to[0] = from[0] + from[1] + from[2];
      to[1] = from[1] - from[2] - from[3];
    }
  };
  struct Result {  // A
    static constexpr int kIn = 2, kOut = kPoints;
    template <typename V>
    static void apply(V* to, const V* from) {
      to[0] = from[0];
      to[1] = from[0] + from[1];
      to[2] = from[0] - from[1];
      to[3] = -from[1];
    }
  };
  struct Gradient {  // G^T
    static constexpr int kIn = kPoints, kOut = 3;
    template <typename V>
    static void apply(V* to, const V* from) {
      const V half = 0.5f * (from[1] + from[2]);
      to[0] = from[0] + half;
      to[1] = 0.5f * (from[1] - from[2]);
      to[2] = half + from[3];
    }
  };
};

template <>
struct Winograd<5> {
  using First = Winograd<3>;
  static constexpr int kTile = 6, kPoints = 7;
  struct Input {
    static constexpr int kIn = kTile, kOut = kPoints;
    template <typename V>
    static void apply(V* to, const V* from) {
      First::Input::apply(to, from);
      to[4] = from[3] - from[4];
      to[5] = from[4];
      to[6] = from[4] - from[5];
    }
  };
  struct Weight {
    static constexpr int kIn = 5, kOut = kPoints;
    template <typename V>
    static void apply(V* to, const V* from) {
      First::Weight::apply(to, from);
      to[4] = from[3];
      to[5] = from[3] + from[4];
      to[6] = from[4];
    }
  };
  struct Output {
    static constexpr int kIn = kPoints, kOut = 2;
    template <typename V>
    static void apply(V* to, const V* from) {
      First::Output::apply(to, from);
      to[0] += from[4] + from[5];
      to[1] += from[5] - from[6];
    }
  };
  struct Result {
    static constexpr int kIn = 2, kOut = kPoints;
    template <typename V>
    static void apply(V* to, const V* from) {
      First::Result::apply(to, from);
      to[4] = from[0];
      to[5] = from[0] + from[1];
      to[6] = -from[1];
    }
  };
  struct Gradient {
    static constexpr int kIn = kPoints, kOut = 5;
    template <typename V>
    static void apply(V* to, const V* from) {
      First::Gradient::apply(to, from);
      to[3] = from[4] + from[5];
      to[4] = from[5] + from[6];
    }
  };
};

// The step over the columns of load(i, j), then over the rows, to store(i, j, v).
template <typename V, typename Step, typename Load, typename Store>
inline void both_ways(Load&& load, Store&& store) {
  constexpr int kIn = Step::kIn, kOut = Step::kOut;
  V half[kOut][kIn];
#pragma GCC unroll 8
  for (int j = 0; j < kIn; ++j) {
    V from[kIn], to[kOut];
    for (int i = 0; i < kIn; ++i) from[i] = load(i, j);
    Step::apply(to, from);
    for (int i = 0; i < kOut; ++i) half[i][j] = to[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kOut; ++i) {
    V to[kOut];
    Step::apply(to, half[i]);
    for (int j = 0; j < kOut; ++j) store(i, j, to[j]);
  }
}
}  // namespace torchext::cpu::ISA
#endif
