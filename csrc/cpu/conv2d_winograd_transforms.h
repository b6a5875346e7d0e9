// Winograd's transforms of a row of a tile, F(2, 3) and two kinds of F(2, 5), and of a tile both ways.
#ifndef TORCHEXT_CONV2D_WINOGRAD_TRANSFORMS
#define TORCHEXT_CONV2D_WINOGRAD_TRANSFORMS

namespace torchext::cpu::ISA {
// A kind has five steps, each from kIn elements to kOut.
struct F23 {  // Lavin and Gray's: points 0, 1, -1, infinity
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

// F(2, 3) on the first three taps and F(2, 2) on the last two: one point more than needed, and no rounding that F(2, 3)
// has not: a fourth of the library's error at 16 channels, at 6 x 6 points it would be 1.4 times it, at 64 four times.
struct F25Split {
  using First = F23;
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

// Interpolation at 0, 1, -1, 1/2, -2 and infinity: of the sets of six points the one that rounds least.
struct F25 {
  static constexpr int kTile = 6, kPoints = 6;
  static constexpr float kThird = 1.0f / 3, kFifteenth = 1.0f / 15;
  struct Input {
    static constexpr int kIn = kTile, kOut = kPoints;
    template <typename V>
    static void apply(V* to, const V* from) {
      const V u = from[3] - from[1], v = from[4] - from[2];
      to[0] = from[0] - from[2] + 1.5f * u + v;
      to[1] = v + u + 1.5f * (from[3] + from[2]);
      to[2] = v - u + 1.5f * (from[3] - from[2]);
      to[3] = v + 2.0f * u;
      to[4] = v - 0.5f * u;
      to[5] = from[5] - from[3] + 1.5f * v - u;
    }
  };
  struct Weight {
    static constexpr int kIn = 5, kOut = kPoints;
    template <typename V>
    static void apply(V* to, const V* from) {
      const V even = from[0] + from[2] + from[4], odd = from[1] + from[3];
      to[0] = from[0];
      to[1] = (even + odd) * kThird;
      to[2] = (odd - even) * kThird;
      to[3] = (16.0f * from[0] + 8.0f * from[1] + 4.0f * from[2] + 2.0f * from[3] + from[4]) * -kFifteenth;
      to[4] = (from[0] - 2.0f * from[1] + 4.0f * from[2] - 8.0f * from[3] + 16.0f * from[4]) * kFifteenth;
      to[5] = from[4];
    }
  };
  struct Output {
    static constexpr int kIn = kPoints, kOut = 2;
    template <typename V>
    static void apply(V* to, const V* from) {
      to[0] = from[0] + (from[1] + from[2]) + (from[3] + from[4]);
      to[1] = from[1] - from[2] + (0.5f * from[3] - 2.0f * from[4]) + from[5];
    }
  };
  struct Result {
    static constexpr int kIn = 2, kOut = kPoints;
    template <typename V>
    static void apply(V* to, const V* from) {
      to[0] = from[0];
      to[1] = from[0] + from[1];
      to[2] = from[0] - from[1];
      to[3] = from[0] + 0.5f * from[1];
      to[4] = from[0] - 2.0f * from[1];
      to[5] = from[1];
    }
  };
  struct Gradient {
    static constexpr int kIn = kPoints, kOut = 5;
    template <typename V>
    static void apply(V* to, const V* from) {
      const V even = (from[1] - from[2]) * kThird, odd = (from[1] + from[2]) * kThird;
      const V half = from[3] * -kFifteenth, two = from[4] * kFifteenth;
      to[0] = from[0] + even + (16.0f * half + two);
      to[1] = odd + (8.0f * half - 2.0f * two);
      to[2] = even + 4.0f * (half + two);
      to[3] = odd + (2.0f * half - 8.0f * two);
      to[4] = even + (half + 16.0f * two) + from[5];
    }
  };
};

// The kinds down and across. Six points of 5 x 5 are for one way, as rounding errors of both ways multiply, and for
// sums over few channels: over 64 of them the library's own error is the smaller,
// and that of a few images' weight gradient.
template <typename DownKind, typename AcrossKind>
struct Winograd {
  using Down = DownKind;
  using Across = AcrossKind;
  static constexpr int kTaps = Down::kTile - 1, kAcross = Across::kPoints, kPlanes = Down::kPoints * kAcross;
};
using Winograd3 = Winograd<F23, F23>;
using Winograd5 = Winograd<F25Split, F25Split>;
using Winograd5FewChannels = Winograd<F25Split, F25>;

// A step over the columns of load(i, j), then one over the rows, to store(i, j, v).
template <typename V, typename Down, typename Across, typename Load, typename Store>
inline void both_ways(Load&& load, Store&& store) {
  V half[Down::kOut][Across::kIn];
#pragma GCC unroll 8
  for (int j = 0; j < Across::kIn; ++j) {
    V from[Down::kIn], to[Down::kOut];
    for (int i = 0; i < Down::kIn; ++i) from[i] = load(i, j);
    Down::apply(to, from);
    for (int i = 0; i < Down::kOut; ++i) half[i][j] = to[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < Down::kOut; ++i) {
    V to[Across::kOut];
    Across::apply(to, half[i]);
    for (int j = 0; j < Across::kOut; ++j) store(i, j, to[j]);
  }
}
}  // namespace torchext::cpu::ISA
#endif
