"""conv2d_relu_max_pool2d: y = max over each pooling window of relu(b + conv(x, w)); offset = the tap that holds it.

csrc/conv2d.h has the maths; offset 255 where ReLU makes y 0 and passes no gradient. A program has POS results of K
channels; for each tap m of the window it multiplies the patches of x under that tap by w, and keeps the larger:

    z_m [POS, K]  =  x under tap m [POS, TAPS]  @  w [TAPS, K]  + b        TAPS = channels of the group x r x s
    best, tap     =  z_m where it is larger, m                             in registers: z never reaches memory

Backward expands dy by its offsets in registers too, dz_m = dy where offset == m else 0, and no map of it exists either:

    dw [K, TAPS]  =  sum of dz_m^T [K, POS] @ x under tap m [POS, TAPS]    by parts of the results, then over the parts
    dx [POS, C]   =  sum of dz [POS, K] @ w(r, s) [K, C]                   over r, s and the windows above

Bill: x, w and dy + offsets are read once from memory, their patches again from the caches; y + offsets, dx and dw are
written once. Few channels: the loads of the patches bound it, not the products.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shapes import convolved_sizes, empty_gradients, empty_image, pooled_sizes
from .conv2d_patches import CHUNK, CONFIGS, MOST, WARPS, block, geometry, patches, place, width
from .conv2d_relu_max_pool2d_gradients import (
    conv2d_relu_max_pool2d_dw_kernel,
    conv2d_relu_max_pool2d_dx_kernel,
    sum_parts_kernel,
)
from .launch import accumulator, autotune, implements, launch
from .max_pool2d_tile import DEAD, better
from .product import precision
from .tile import again, dot, rounded

PARTS = 256  # of the results, for dw: about two programs a multiprocessor; one number for all devices, for equal sums
PARTIAL = 1 << 22  # elements that all parts may take, but for the first 16


@autotune(CONFIGS, key=["count", "h", "w"])
@triton.jit
def conv2d_relu_max_pool2d_kernel(
    y, offsets, x, weight, bias, count, h, w, zh, zw, yh, yw, xn, xc, xh, xw, yn, yk, yp, yq,
    GROUP_C: tl.constexpr, GROUP_K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    POOL_H: tl.constexpr, POOL_W: tl.constexpr, POOL_SH: tl.constexpr, POOL_SW: tl.constexpr,
    POOL_PH: tl.constexpr, POOL_PW: tl.constexpr,
    K: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
    SCALE: tl.constexpr,
):  # fmt: skip
    POS: tl.constexpr = BLOCK * SCALE
    TAPS: tl.constexpr = GROUP_C * R * S
    blocks: tl.constexpr = (GROUP_K + K - 1) // K
    n, i, j, at = place(tl.program_id(0), yh, yw, POS)
    group = tl.program_id(1) // blocks
    k = tl.program_id(1) % blocks * K + tl.arange(0, K)
    k_inside, k = k < GROUP_K, group * GROUP_K + k
    start = tl.zeros([POS, K], ACC)
    if bias is not None:
        start += tl.load(bias + k, k_inside, other=0).to(ACC)[None, :]
    best = tl.full([POS, K], float("-inf"), ACC)
    tap = tl.full([POS, K], DEAD, tl.int32)
    for m in range(POOL_H * POOL_W):
        p, q = i * POOL_SH - POOL_PH + m // POOL_W, j * POOL_SW - POOL_PW + m % POOL_W
        inside = (at < count) & (p >= 0) & (p < zh) & (q >= 0) & (q < zw)
        z = start
        for first in range(0, TAPS, CHUNK):
            t = first + tl.arange(0, CHUNK)
            a = patches(x, n, p, q, inside, t, group, h, w, xn, xc, xh, xw, GROUP_C, R, S, SH, SW, PH, PW, DH, DW)
            b = tl.load(weight + (k * TAPS)[None, :] + t[:, None], k_inside[None, :] & (t < TAPS)[:, None], other=0)
            z = dot(a, b, z, PRECISION)
        best, tap = better(best, tap, z, m, inside[:, None])
    dead = best <= 0
    n, i, j, at = place(again(tl.program_id(0)), yh, yw, POS)
    to = (n * yn + i.to(tl.int64) * yp + j.to(tl.int64) * yq)[:, None] + (k.to(tl.int64) * yk)[None, :]
    inside = (at < count)[:, None] & k_inside[None, :]
    tl.store(y + to, rounded(tl.where(dead, 0.0, best), y.dtype.element_ty), inside)
    tl.store(offsets + to, tl.where(dead, DEAD, tap).to(tl.uint8), inside)


@implements("conv2d_relu_max_pool2d")
def conv2d_relu_max_pool2d(
    x: Tensor, w: Tensor, b: Tensor | None, stride, padding, dilation, groups: int,
    pool_kernel, pool_stride, pool_padding, ceil_mode: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    z = list(convolved_sizes(x, w, stride, padding, dilation))
    size = list(pooled_sizes(z, pool_kernel, pool_stride, pool_padding, ceil_mode))
    shape = (x.shape[0], w.shape[0], *size)
    y, offsets = empty_image(x, w, shape), empty_image(x, w, shape, torch.uint8)
    count, k = shape[0] * size[0] * size[1], width(w.shape[0] // groups)
    blocks = groups * triton.cdiv(w.shape[0] // groups, k)
    launch(
        conv2d_relu_max_pool2d_kernel, lambda meta: (triton.cdiv(count, meta["BLOCK"] * meta["SCALE"]), blocks),
        y, offsets, x, w.contiguous(), b if b is None else b.contiguous(),
        count, *x.shape[2:], *z, *size, *x.stride(), *y.stride(),
        **geometry(w, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding),
        K=k, CHUNK=CHUNK, PRECISION=precision(x, "conv"), ACC=accumulator(x), BLOCK=block(count),
    )  # fmt: skip
    return y, offsets


def like(offsets: Tensor, dy: Tensor) -> Tensor:
    """dy in the strides of its offsets: one address serves both."""
    if dy.stride() == offsets.stride():
        return dy
    return torch.empty_strided(dy.shape, offsets.stride(), dtype=dy.dtype, device=dy.device).copy_(dy)


@implements("conv2d_relu_max_pool2d_backward")
def conv2d_relu_max_pool2d_backward(
    dy: Tensor, offsets: Tensor, x: Tensor, w: Tensor, stride, padding, dilation, groups: int,
    pool_kernel, pool_stride, pool_padding, want_dx: bool, want_dw: bool, want_db: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dx, dw, db = empty_gradients(x, w, want_dx, want_dw, want_db)
    if dy.dtype == torch.float64:  # Triton 3.6 lays operands out by the narrowest load behind them: of bytes it fails
        offsets = offsets.int()
    dy = like(offsets, dy)
    numbers = geometry(w, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding)
    numbers |= {"PRECISION": precision(x, "conv"), "ACC": accumulator(x)}
    sizes = *x.shape[2:], *convolved_sizes(x, w, stride, padding, dilation), *dy.shape[2:]
    if want_dx:
        launch_dx(dx, dy, offsets, w.contiguous(), sizes, groups, numbers)
    if want_dw or want_db:
        launch_dw(dw, db, dy, offsets, x, w, sizes, groups, numbers)
    return dx, dw, db


def launch_dx(dx: Tensor, dy: Tensor, offsets: Tensor, w: Tensor, sizes: tuple, groups: int, numbers: dict) -> None:
    count, c = dx.shape[0] * dx.shape[2] * dx.shape[3], width(w.shape[1])
    blocks = groups * triton.cdiv(w.shape[1], c)
    # Half a chunk: beside dy a program has its offsets and their taps in registers.
    launch(
        conv2d_relu_max_pool2d_dx_kernel, lambda meta: (triton.cdiv(count, meta["BLOCK"] * meta["SCALE"]), blocks),
        dx, dy, offsets, w, count, *sizes, *dx.stride(), *dy.stride(),
        **numbers, C=c, CHUNK=CHUNK // 2, BLOCK=block(count),
    )  # fmt: skip


def launch_dw(
    dw: Tensor, db: Tensor, dy: Tensor, offsets: Tensor, x: Tensor, w: Tensor, sizes: tuple, groups: int, numbers: dict
) -> None:
    channels, c, r, s = w.shape
    want_dw, want_db = dw.numel() > 0, db.numel() > 0
    weights, k, chunk = w.numel(), width(channels // groups), width(c * r * s, CHUNK)
    results, elements = dy.shape[0] * dy.shape[2] * dy.shape[3], weights + channels
    pos = width(results, MOST // 2)  # dw, dy and two patches are in registers beside each other
    parts = max(1, min(triton.cdiv(results, pos), PARTS, max(16, PARTIAL // elements)))
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    sums = x.new_empty((parts, elements), dtype=acc)
    grid = parts, groups * triton.cdiv(channels // groups, k), triton.cdiv(c * r * s, chunk) if want_dw else 1
    launch(
        conv2d_relu_max_pool2d_dw_kernel, grid, sums, dy, offsets, x, results, channels, *sizes,
        *x.stride(), *dy.stride(), **numbers, WANT_DW=want_dw, K=k, CHUNK=chunk, POS=pos,
        num_warps=WARPS, num_stages=1,  # with a second, TF32 spills on sm_100
    )  # fmt: skip
    launch(
        sum_parts_kernel, (triton.cdiv(elements, 64),), dw, db, sums, parts, weights, elements, c, r, s,
        *(dw.stride() if want_dw else (0,) * 4), WANT_DW=want_dw, WANT_DB=want_db,
        ROWS=64, COLUMNS=64, ACC=numbers["ACC"], num_warps=WARPS,
    )  # fmt: skip
