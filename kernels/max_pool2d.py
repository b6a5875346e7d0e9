"""max_pool2d: y[i, j] = max of x[i sh - ph + r dh, j sw - pw + t dw] over the taps (r, t) inside; offset = r kw + t.

Ties, NaN and dead outputs as csrc/max_pool2d.h says; a program has one tile of max_pool2d_tile.py.

Forward reads x once (overlapping windows again, from cache) and writes s + 1 bytes an output. Backward reads those and
writes dx once, zeros included: where windows lie apart a tile of outputs writes the patches under them, where they
overlap a tile of dx gathers from the outputs above it, in their order. x and dy are read in any strides. Bound by
memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shapes import empty_maps, format_of
from .launch import accumulator, implements, launch
from .max_pool2d_tile import DEAD, better, split, strides, tile_at, tiles
from .tile import rounded

NONE = tl.constexpr(256)  # the number of a tap that no offset names
UNROLLED = 25  # taps; more stay a loop


@triton.jit
def max_pool2d_kernel(
    y, offsets, x, rows, columns, oh, h, w, outer, inner, xn, xc, xh, xw,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    PAIRS: tl.constexpr, WANT_OFFSETS: tl.constexpr, UNROLL: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    row, first = tile_at(columns, ROWS, COLUMNS)
    column = first + tl.arange(0, COLUMNS)
    plane, p = row // oh, row % oh * SH - PH
    map = x + (plane // outer * xn + plane % outer * xc)
    best = tl.full([ROWS, COLUMNS], float("-inf"), ACC)
    tap = tl.full([ROWS, COLUMNS], DEAD, tl.int32)
    if PAIRS:  # the two columns of a window are neighbours: one wide load brings both
        q = first * 2 + tl.arange(0, 2 * COLUMNS)
        for r in tl.static_range(KH):
            at = p + r * DH
            inside = ((row < rows) & (at >= 0) & (at < h))[:, None]
            both = tl.load((map + at * xh)[:, None] + (q * xw)[None, :], inside & (q < w)[None, :], other=0).to(ACC)
            left, right = tl.split(tl.reshape(both, [ROWS, COLUMNS, 2]))
            best, tap = better(best, tap, left, 2 * r, inside & (column * 2 < w)[None, :])
            best, tap = better(best, tap, right, 2 * r + 1, inside & (column * 2 + 1 < w)[None, :])
    else:
        q, channel = column // inner * SW - PW, column % inner * xc
        for k in tl.range(0, KH * KW, loop_unroll_factor=UNROLL):
            down, right = p + tl.full([], DH, tl.int64) * (k // KW), q + tl.full([], DW, tl.int64) * (k % KW)
            inside = ((row < rows) & (down >= 0) & (down < h))[:, None] & ((right >= 0) & (right < w))[None, :]
            value = tl.load((map + down * xh)[:, None] + (right * xw + channel)[None, :], inside, other=0).to(ACC)
            best, tap = better(best, tap, value, k, inside)
    to = (row * columns)[:, None] + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(y + to, rounded(best, y.dtype.element_ty), inside)
    if WANT_OFFSETS:
        tl.store(offsets + to, tap.to(tl.uint8), inside)


@triton.jit
def max_pool2d_patches_kernel(
    dx, dy, offsets, rows, columns, patches, oh, ow, h, w, outer, inner, yn, yc, yh, yw,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    PAIRS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Rows of [n, outer, patches]: an output writes the SH x SW elements up to the next ones' corners."""
    row, first = tile_at(columns, ROWS, COLUMNS)
    column = first + tl.arange(0, COLUMNS)
    plane, i = row // patches, row % patches
    j, channel = column // inner, column % inner
    inside = ((row < rows) & (i < oh))[:, None] & (j < ow)[None, :]  # else zeros, beyond the last window
    at = tl.load(offsets + ((plane * oh + i) * ow * inner)[:, None] + column[None, :], inside, other=DEAD).to(tl.int32)
    above = dy + (plane // outer * yn + plane % outer * yc + i * yh)[:, None]
    g = tl.load(above + (j * yw + channel * yc)[None, :], inside, other=0)
    for r in tl.static_range(SH):
        p = i * SH - PH + r
        to, row_inside = dx + ((plane * h + p) * w * inner)[:, None], ((row < rows) & (p >= 0) & (p < h))[:, None]
        tap = r * KW if r < KH else NONE
        if PAIRS:  # two columns of dx above each output: joined, they are written by one wide store
            q = first * 2 + tl.arange(0, 2 * COLUMNS) - PW
            left = tl.where(at == tap, g, 0.0)
            right = tl.where(at == (tap + 1 if KW > 1 else NONE), g, 0.0)
            both = tl.reshape(tl.join(left, right), [ROWS, 2 * COLUMNS])
            tl.store(to + q[None, :], both, row_inside & ((q >= 0) & (q < w))[None, :])
        else:
            for t in tl.static_range(SW):
                q = j * SW - PW + t
                value = tl.where(at == (tap + t if t < KW else NONE), g, 0.0)
                tl.store(to + (q * inner + channel)[None, :], value, row_inside & ((q >= 0) & (q < w))[None, :])


@triton.jit
def max_pool2d_gather_kernel(
    dx, dy, offsets, rows, columns, oh, ow, h, w, outer, inner, yn, yc, yh, yw,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    UNROLL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """At most (KH - 1) DH / SH + 1 rows of outputs have a tap at a row of dx, the last of them p // SH; so columns."""
    HIGH: tl.constexpr = (KH - 1) * DH // SH + 1
    WIDE: tl.constexpr = (KW - 1) * DW // SW + 1
    row, first = tile_at(columns, ROWS, COLUMNS)
    column = first + tl.arange(0, COLUMNS)
    plane, p = row // h, row % h + PH
    q, channel = column // inner + PW, column % inner
    above, named = dy + (plane // outer * yn + plane % outer * yc), offsets + plane * oh * ow * inner
    sum = tl.zeros([ROWS, COLUMNS], ACC)
    for k in tl.range(0, HIGH * WIDE, loop_unroll_factor=UNROLL):
        i, j = p // SH - (HIGH - 1) + k // WIDE, q // SW - (WIDE - 1) + k % WIDE
        r, t = p - i * SH, q - j * SW
        down = (row < rows) & (i >= 0) & (i < oh) & (r % DH == 0) & (r < KH * DH)
        right = (column < columns) & (j >= 0) & (j < ow) & (t % DW == 0) & (t < KW * DW)
        inside = down[:, None] & right[None, :]
        at = tl.load((named + i * ow * inner)[:, None] + (j * inner + channel)[None, :], inside, other=DEAD)
        g = tl.load((above + i * yh)[:, None] + (j * yw + channel * yc)[None, :], inside, other=0).to(ACC)
        # Outside, a tap's number can be any, 255 too: g is 0 there.
        sum += tl.where(at.to(tl.int32) == (r // DH * KW)[:, None] + (t // DW)[None, :], g, 0.0)
    to = (row * columns)[:, None] + column[None, :]
    tl.store(dx + to, rounded(sum, dx.dtype.element_ty), (row < rows)[:, None] & (column < columns)[None, :])


@triton.jit
def max_pool2d_indices_kernel(
    indices, offsets, rows, columns, oh, w, inner,
    KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, first = tile_at(columns, ROWS, COLUMNS)
    column = first + tl.arange(0, COLUMNS)
    p, q = row % oh * SH - PH, column // inner * SW - PW
    to = (row * columns)[:, None] + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    at = tl.load(offsets + to, inside, other=0).to(tl.int32)
    # A dead one has, as in stock, the first tap with p, q >= 0.
    r = tl.where(at == DEAD, tl.where(p < 0, (DH - 1 - p) // DH, 0)[:, None], at // KW)
    t = tl.where(at == DEAD, tl.where(q < 0, (DW - 1 - q) // DW, 0)[None, :], at % KW)
    tl.store(indices + to, (p[:, None] + r * DH) * w + q[None, :] + t * DW, inside)


def named(kh, kw, sh, sw, ph, pw, dh, dw) -> dict:
    return {"KH": kh, "KW": kw, "SH": sh, "SW": sw, "PH": ph, "PW": pw, "DH": dh, "DW": dw}


def unroll(count: int) -> int:
    return count if count <= UNROLLED else 1


@implements("max_pool2d")
def max_pool2d(x: Tensor, channels_last: bool, want_offsets: bool, oh: int, ow: int, *window) -> tuple[Tensor, Tensor]:
    n, outer, inner = split(x, channels_last)
    y = empty_maps(x, channels_last, oh, ow)
    offsets = empty_maps(x, channels_last, oh, ow, torch.uint8) if want_offsets else x.new_empty(0, dtype=torch.uint8)
    rows, columns = n * outer * oh, ow * inner
    grid, tile = tiles(rows, columns)
    kh, kw, _, sw, _, pw, _, dw = window
    pairs = inner == 1 and (kw, sw, pw, dw) == (2, 2, 0, 1) and kh <= UNROLLED
    launch(
        max_pool2d_kernel, grid, y, offsets, x, rows, columns, oh, *x.shape[-2:], outer, inner, *strides(x),
        **named(*window), PAIRS=pairs, WANT_OFFSETS=want_offsets, UNROLL=unroll(kh * kw), ACC=accumulator(x), **tile,
    )  # fmt: skip
    return y, offsets


@implements("max_pool2d_backward")
def max_pool2d_backward(dy: Tensor, offsets: Tensor, channels_last: bool, h: int, w: int, *window) -> Tensor:
    n, outer, inner = split(dy, channels_last)
    offsets = offsets.contiguous(memory_format=format_of(channels_last))
    dx = empty_maps(dy, channels_last, h, w)
    shape = *dy.shape[-2:], h, w, outer, inner, *strides(dy)
    kh, kw, sh, sw, ph, pw, dh, dw = window
    # Far apart in a contiguous plane, patches are written by neighbours far from one another.
    if kh <= sh and kw <= sw and dh == dw == 1 and sh * sw <= UNROLLED and (inner > 1 or sw <= 4):
        patches = triton.cdiv(h + ph, sh)
        rows, columns = n * outer * patches, triton.cdiv(w + pw, sw) * inner
        grid, tile = tiles(rows, columns)
        launch(
            max_pool2d_patches_kernel, grid, dx, dy, offsets, rows, columns, patches, *shape,
            KH=kh, KW=kw, SH=sh, SW=sw, PH=ph, PW=pw, PAIRS=inner == 1 and sw == 2, **tile,
        )  # fmt: skip
    else:
        rows, columns = n * outer * h, w * inner
        grid, tile = tiles(rows, columns)
        cover = ((kh - 1) * dh // sh + 1) * ((kw - 1) * dw // sw + 1)
        launch(
            max_pool2d_gather_kernel, grid, dx, dy, offsets, rows, columns, *shape,
            **named(*window), UNROLL=unroll(cover), ACC=accumulator(dy), **tile,
        )  # fmt: skip
    return dx


@implements("max_pool2d_indices")
def max_pool2d_indices(offsets: Tensor, channels_last: bool, w: int, *window) -> Tensor:
    n, outer, inner = split(offsets, channels_last)
    offsets = offsets.contiguous(memory_format=format_of(channels_last))
    oh, ow = offsets.shape[-2:]
    indices = empty_maps(offsets, channels_last, oh, ow, torch.int64)
    rows, columns = n * outer * oh, ow * inner
    grid, tile = tiles(rows, columns)
    window = {name: value for name, value in named(*window).items() if name != "KH"}
    launch(max_pool2d_indices_kernel, grid, indices, offsets, rows, columns, oh, w, inner, **window, **tile)
    return indices
