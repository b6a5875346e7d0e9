"""conv2d: y[n, k, p, q] = b[k] + sum over terms (c, r, s) of w[k, c, r, s] x[n, c, p sh - ph + r dh, q sw - pw + s dw].

A product whose right operand is gathered from the image as it is, never unfolded in memory, for every group:

                     x  [terms, pixels]           y:  rows = k, terms = (c, r, s), pixels = (n, p, q)
                  +------+------+                 dx: rows = c, terms = (k, r, s), pixels = (n, h, w), from dz: those
                  |      |  BK  |                     of one h mod sh and w mod sw, which read the same taps, at a time
                  +------+------+                 dw: rows = k, terms = (n, p, q), columns = (c, r, s); its long sum
    w  +----+     +------+------+                     falls into pieces, which add_pieces adds up in one order
       | BK |     |   BM x BN   |  y [rows, pixels]   db: by relu_backward, with dz
       +----+     +------+------+

Terms run in the order of the weights in memory: (c, r, s), or (r, s, c) where the image is channels_last, which then
copies 16 bytes of channels at once. A tile reads an image's element up to r s times, from L1 or L2; from memory x, w
and y pass once. Bound by the matrix units from some 64 channels on, below by memory or, in NCHW, by copies of single
elements.
"""

from collections.abc import Iterator
from math import gcd

import triton
import triton.language as tl
from torch import Tensor
from triton import Config

from .._shapes import convolved_sizes, empty_gradients, empty_image, is_channels_last
from .conv2d_gather import gather_product_kernel, weight_gradient_kernel
from .launch import INTERPRETED, accumulator, autotune, implements, launch
from .product import add_pieces, bits, on_tensor_cores, precision, scratch, size_class, split, step
from .relu_backward import relu_backward

Walk = tuple[int, int, int]  # by how many rows of x a row of y and a tap advance, and where y's first has its first tap
WIDE, NARROW = (512, 512) if INTERPRETED else (128, 64)  # the interpreter's time goes by the program
# The square first; half of it where few channels or pixels leave processors idle.
TILES = [Config({"BN": WIDE}, num_warps=8, num_stages=3), Config({"BN": NARROW}, num_warps=4, num_stages=3)]
tuned_gather_product_kernel = autotune(TILES, key=["size_class"])(gather_product_kernel)
EXACT = {"BN": NARROW, "num_warps": 8, "num_stages": 3}  # all that float64 and the CUDA cores can hold


def high(rows: int, x: Tensor, how: str) -> int:
    """How many channels a tile has."""
    return min(128 if on_tensor_cores(x, how) else 64, max(16, 1 << bits(rows)))


def step_over(x: Tensor, how: str) -> int:
    """How many terms a tile takes at once; of contiguous images, copied by single elements, 32 addresses fit."""
    return step(x, how) if INTERPRETED or x.stride(1) == 1 else min(32, step(x, how))


def index(count: int) -> tl.dtype:
    """The type that counts to `count`, and a tile beyond."""
    return tl.int64 if count >= 2**31 - 1024 else tl.int32


def gather_product(y: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, over: list[Walk], relu: bool = False) -> None:
    """y [n, groups * rows, height, width] from x, by w [groups, rows, channels, r, s]; all of any strides."""
    if y.numel() == 0:
        return
    if w.numel() == 0:
        y.zero_()
        return
    groups, rows, channels, r, s = w.shape
    n, _, height, width = y.shape
    how, pixels, terms = precision(x, "conv"), n * height * width, channels * r * s
    kernel, tiles = (tuned_gather_product_kernel, {}) if on_tensor_cores(x, how) else (gather_product_kernel, EXACT)
    bm, bk = high(rows, x, how), min(step_over(x, how), max(16, 1 << bits(terms)))
    last = x.stride(1) == 1
    grid = lambda meta: (triton.cdiv(rows, bm) * groups * triton.cdiv(pixels, meta["BN"]),)
    launch(
        kernel, grid, y, x, w, bias, pixels, height, width, *x.shape[2:], rows, channels, groups,
        size_class(pixels, rows, terms), *y.stride(), *x.stride(), *w.stride(),
        *(number for pair in zip(*over) for number in pair),
        BM=bm, BK=bk, R=r, S=s, LAST=last, ONE_TAP=last and channels % bk == 0, RELU=relu,
        ACC=accumulator(x), INDEX=index(pixels), PRECISION=how, **tiles,
    )  # fmt: skip


def weight_gradient(dw: Tensor, dz: Tensor, x: Tensor, groups: int, over: list[Walk]) -> None:
    """dw, dense in either memory format, from dz and x of any strides."""
    (n, k, height, width), (_, channels, r, s) = dz.shape, dw.shape
    how, pixels, rows, columns = precision(x, "conv"), n * height * width, k // groups, channels * r * s
    bm, bn = high(rows, x, how), high(columns, x, how)
    tiles = triton.cdiv(rows, bm) * triton.cdiv(columns, bn) * groups
    pieces, depth = split(tiles, pixels, x)
    to = dw if pieces == 1 else scratch(x, pieces, *dw.shape)
    launch(
        weight_gradient_kernel, (tiles * pieces,), to, dz, x, pixels, depth, height, width, *x.shape[2:], rows,
        channels, groups, *dz.stride(), *x.stride(), *(number for pair in zip(*over) for number in pair),
        BM=bm, BN=bn, BK=step_over(x, how), R=r, S=s, LAST=not dw.is_contiguous(),
        ACC=accumulator(x), INDEX=index(pixels), PRECISION=how, num_warps=8, num_stages=3,
    )  # fmt: skip
    if pieces > 1:
        add_pieces(dw, to)


def phases(size: int, taps: int, stride: int, padding: int, dilation: int) -> Iterator[tuple[slice, slice, Walk]]:
    """The pixels of dx that lie alike to the stride, the taps that reach them, and their walk over dz."""
    common = gcd(stride, dilation)
    period = stride // common
    for first in range(min(stride, size)):
        reach = [t for t in range(min(period, taps)) if (first + padding - t * dilation) % stride == 0]
        tap = reach[0] if reach else taps
        start = (first + padding - tap * dilation) // stride
        yield slice(first, None, stride), slice(tap, None, period), (1, -dilation // common, start)


def image_gradient(dx: Tensor, dz: Tensor, w: Tensor, geometry: list) -> None:
    """dx from dz and w [groups, rows of dz, channels of dx, r, s]: a product for each phase of rows and columns."""
    rows, columns = (list(phases(dx.shape[d], w.shape[d + 1], *geometry[d - 2])) for d in (2, 3))
    for u, r, down in rows:
        for v, s, across in columns:
            gather_product(dx[:, :, u, v], dz, w[..., r, s].transpose(1, 2), None, [down, across])


def walks(stride: list[int], padding: list[int], dilation: list[int]) -> list[Walk]:
    """Of y over x."""
    return [(by, tap, -pad) for by, tap, pad in zip(stride, dilation, padding)]


def forward(
    x: Tensor, w: Tensor, b: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], groups: int,
    relu: bool,
) -> Tensor:  # fmt: skip
    sizes = convolved_sizes(x, w, stride, padding, dilation)
    y = empty_image(x, w, (x.shape[0], w.shape[0], *sizes))
    b = b if b is None else b.contiguous()
    gather_product(y, x, w.unflatten(0, (groups, -1)), b, walks(stride, padding, dilation), relu)
    return y


@implements("conv2d")
def conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], groups: int,
    algorithm: int,
) -> Tensor:  # fmt: skip
    return forward(x, w, b, stride, padding, dilation, groups, relu=False)


@implements("conv2d_relu")
def conv2d_relu(
    x: Tensor, w: Tensor, b: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], groups: int,
    algorithm: int,
) -> Tensor:  # fmt: skip
    return forward(x, w, b, stride, padding, dilation, groups, relu=True)


def flat(t: Tensor, last: bool) -> Tensor:
    """The images as [planes, channels, pixels]; a copy only where their rows do not follow each other evenly."""
    return t.permute(0, 2, 3, 1).flatten(0, 2).t().unsqueeze(0) if last else t.flatten(2)


def masked(dy: Tensor, y: Tensor | None, db: Tensor | None) -> Tensor:
    """dz, dy itself where y is None; db, where wanted, is filled."""
    if y is None and db is None:
        return dy
    last = is_channels_last(dy if y is None else y)
    dz = None if y is None else empty_image(y, y, y.shape)
    relu_backward(*(t if t is None else flat(t, last) for t in (dy, y, dz)), db)
    return dy if dz is None else dz


@implements("conv2d_backward")
def conv2d_backward(
    dy: Tensor, x: Tensor, w: Tensor, y: Tensor | None, stride: list[int], padding: list[int], dilation: list[int],
    groups: int, algorithm: int, want_dx: bool, want_dw: bool, want_db: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dx, dw, db = empty_gradients(x, w, want_dx, want_dw, want_db)
    dz = masked(dy, y, db if want_db else None)
    if want_dx:
        image_gradient(dx, dz, w.unflatten(0, (groups, -1)), list(zip(stride, padding, dilation)))
    if want_dw:
        weight_gradient(dw, dz, x, groups, walks(stride, padding, dilation))
    return dx, dw, db
