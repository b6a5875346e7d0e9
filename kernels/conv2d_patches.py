"""What the kernels of a fused convolution share: their tiles, the patches of x they multiply, the geometry's names."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import INTERPRETED

# Results a program has, at most: 16 elements of x a thread under way. The interpreter's time goes by the program.
MOST = 1 << 12 if INTERPRETED else 64
CHUNK = 32  # taps or channels multiplied at once
WARPS, STAGES = 4, 2
# SCALE * BLOCK results a program: few results want many programs; of many, larger blocks load a weight half as often.
CONFIGS = [
    triton.Config({"SCALE": 1}, num_warps=WARPS, num_stages=STAGES),
    triton.Config({"SCALE": 2}, num_warps=2 * WARPS, num_stages=STAGES),
]


@triton.jit
def place(block, high, wide, POS: tl.constexpr):
    """Image, row, column of POS results from the block's first; and their numbers."""
    at = tl.arange(0, POS) + tl.full([], POS, tl.int64) * block
    return at // (high * wide), (at // wide % high).to(tl.int32), (at % wide).to(tl.int32), at


@triton.jit
def patches(
    x, n, p, q, inside, tap, group, h, w, xn, xc, xh, xw,
    GROUP_C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
):  # fmt: skip
    """x[n, c, p SH - PH + r DH, q SW - PW + s DW], the taps (c, r, s) along the second axis; 0 outside the image."""
    top, left = p * SH - PH, q * SW - PW
    c, down, right = (tap // (R * S)).to(tl.int64), tap // S % R * DH, tap % S * DW
    corner = x + n * xn + top.to(tl.int64) * xh + left.to(tl.int64) * xw
    step = (group * GROUP_C + c) * xc + down.to(tl.int64) * xh + right.to(tl.int64) * xw
    inside = inside[:, None] & (tap < GROUP_C * R * S)[None, :]
    if PH > 0 or PW > 0:
        row, column = top[:, None] + down[None, :], left[:, None] + right[None, :]
        inside = inside & (row >= 0) & (row < h) & (column >= 0) & (column < w)
    return tl.load(corner[:, None] + step[None, :], inside, other=0)


def geometry(w: Tensor, stride, padding, dilation, groups: int, pool_kernel, pool_stride, pool_padding) -> dict:
    """The constexprs of the kernels that name a convolution and its pooling."""
    k, group_c, r, s = w.shape
    pairs = {"S": stride, "P": padding, "D": dilation, "POOL_": pool_kernel, "POOL_S": pool_stride}
    pairs["POOL_P"] = pool_padding
    numbers = {name + axis: value for name, pair in pairs.items() for axis, value in zip("HW", pair)}
    return {"GROUP_C": group_c, "GROUP_K": k // groups, "R": r, "S": s, **numbers}


def width(count: int, most: int = 64) -> int:
    """Of a tile over `count` channels or taps: a product of tiles takes 16 at least."""
    return max(16, min(most, triton.next_power_of_2(count)))


def block(count: int) -> int:
    """How many of `count` results a program has at once."""
    return width(int(count), MOST)
