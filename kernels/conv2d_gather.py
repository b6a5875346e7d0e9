"""conv2d's two kernels: products of which one operand is gathered from images as they lie. See conv2d.

A pixel (u, v) of the result and a tap (r, s) meet in the image's row u step + r tap + start, likewise its column; what
lies outside is 0. Divisions are made once a tile for its pixels, and once a step for the terms of the sum along one
edge; of the elements between them only bounds are compared, and where a step lies within one tap those of the pixels.
"""

import triton
import triton.language as tl

from .product import finished
from .tile import OUTSIDE, again, dot_apart, rounded


@triton.jit
def place(pixel, height, width):
    """Image, row and column of each pixel."""
    line = pixel // width
    return (line // height).to(tl.int64), line % height, pixel % width


@triton.jit
def term(i, channels, R: tl.constexpr, S: tl.constexpr, LAST: tl.constexpr):
    """Channel, row tap and column tap of each term."""
    if LAST:
        return i % channels, i // channels // S, i // channels % S
    else:
        return i // (R * S), i // S % R, i % S


@triton.jit
def terms_from(i0, channels, R: tl.constexpr, S: tl.constexpr, BK: tl.constexpr, LAST: tl.constexpr, ONE: tl.constexpr):
    """The same of BK terms from i0; where they share ONE tap, its row and column have one element."""
    if ONE:
        tap = tl.zeros([1], tl.int32) + i0 // channels
        c = i0 % channels + tl.arange(0, BK)  # consecutive: told, since Triton 3.6 does not see it and spills
        return tl.max_contiguous(tl.multiple_of(c, BK), BK), tap // S, tap % S
    else:
        return term(i0 + tl.arange(0, BK), channels, R, S, LAST)


@triton.jit
def within(row, column, height, width):
    return (row >= 0) & (row < height) & (column >= 0) & (column < width)


@triton.jit
def digits(work, first, second):
    """A program's number in three digits: below `first`, below `second`, the rest."""
    return work % first, work // first % second, work // first // second


@triton.jit(do_not_specialize=["size_class"])
def gather_product_kernel(
    y, x, w, bias, pixels, height, width, x_height, x_width, rows, channels, groups, size_class,
    y_n, y_c, y_h, y_w, x_n, x_c, x_h, x_w, w_group, w_row, w_c, w_r, w_s,
    step_h, step_w, tap_h, tap_w, start_h, start_w,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, R: tl.constexpr, S: tl.constexpr, LAST: tl.constexpr,
    ONE_TAP: tl.constexpr, RELU: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y of `rows` channels a group, pixels [n, height, width], reading x at pixel * step + start + tap number * tap."""
    tiles_m = tl.cdiv(rows, BM)
    tile_m, group, tile_n = digits(tl.program_id(0), tiles_m, groups)
    pixel = tile_n.to(INDEX) * BN + tl.arange(0, BN)
    n, u, v = place(pixel, height, width)
    h0, w0 = tl.where(pixel < pixels, u * step_h + start_h, OUTSIDE), v * step_w + start_w
    row = tile_m * BM + tl.arange(0, BM)
    group = group.to(tl.int64)
    x += group * channels * x_c
    w += group * w_group
    x_at = n * x_n + h0.to(tl.int64) * x_h + w0.to(tl.int64) * x_w
    terms = channels * R * S
    sum = tl.zeros([BM, BN], ACC)
    for i0 in range(0, terms, BK):
        c, r, s = terms_from(i0, channels, R, S, BK, LAST, ONE_TAP)
        i, c = i0 + tl.arange(0, BK), c.to(tl.int64)
        w_at = row.to(tl.int64)[:, None] * w_row + (c * w_c + r * w_r + s * w_s)[None, :]
        weights = tl.load(w + w_at, (row < rows)[:, None] & (i < terms)[None, :], 0)
        r, s = r * tap_h, s * tap_w
        inside = within(h0[None, :] + r[:, None], w0[None, :] + s[:, None], x_height, x_width)
        if not ONE_TAP:
            inside &= (i < terms)[:, None]
        at = x_at[None, :] + (c * x_c + r.to(tl.int64) * x_h + s.to(tl.int64) * x_w)[:, None]
        sum = dot_apart(weights, tl.load(x + at, inside, 0), sum, PRECISION)
    tile_m, group, tile_n = digits(again(tl.program_id(0)), tiles_m, groups)
    pixel = tile_n.to(INDEX) * BN + tl.arange(0, BN)
    n, u, v = place(pixel, height, width)
    row = tile_m * BM + tl.arange(0, BM)
    channel = group.to(tl.int64) * rows + row
    b = None if bias is None else tl.load(bias + channel, row < rows, 0).to(ACC)[:, None]
    result = rounded(finished(sum, b, RELU), y.dtype.element_ty)
    y_at = channel[:, None] * y_c + (n * y_n + u.to(tl.int64) * y_h + v.to(tl.int64) * y_w)[None, :]
    tl.store(y + y_at, result, (row < rows)[:, None] & (pixel < pixels)[None, :])


@triton.jit
def weight_gradient_kernel(
    dw, dz, x, pixels, depth, height, width, x_height, x_width, rows, channels, groups,
    z_n, z_c, z_h, z_w, x_n, x_c, x_h, x_w, step_h, step_w, tap_h, tap_w, start_h, start_w,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, R: tl.constexpr, S: tl.constexpr, LAST: tl.constexpr,
    ACC: tl.constexpr, INDEX: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dw [pieces, groups * rows, terms]; a piece is the sum over `depth` pixels."""
    columns = channels * R * S
    tiles_m, tiles_n = tl.cdiv(rows, BM), tl.cdiv(columns, BN)
    tile_m, tile_n, rest = digits(tl.program_id(0), tiles_m, tiles_n)
    group, piece = (rest % groups).to(tl.int64), (rest // groups).to(INDEX)
    row, column = tile_m * BM + tl.arange(0, BM), tile_n * BN + tl.arange(0, BN)
    c, r, s = term(column, channels, R, S, LAST)
    r, s = r * tap_h, s * tap_w
    x += group * channels * x_c
    x_at = c.to(tl.int64) * x_c + r.to(tl.int64) * x_h + s.to(tl.int64) * x_w
    z_at = (group * rows + row) * z_c
    sum = tl.zeros([BM, BN], ACC)
    for first in range(piece * depth, min(piece * depth + depth, pixels), BK):
        pixel = first + tl.arange(0, BK)
        n, u, v = place(pixel, height, width)
        dz_at = n * z_n + u.to(tl.int64) * z_h + v.to(tl.int64) * z_w
        gradient = tl.load(dz + z_at[:, None] + dz_at[None, :], (row < rows)[:, None] & (pixel < pixels)[None, :], 0)
        h0, w0 = tl.where(pixel < pixels, u * step_h + start_h, OUTSIDE), v * step_w + start_w
        inside = within(h0[None, :] + r[:, None], w0[None, :] + s[:, None], x_height, x_width)
        at = x_at[:, None] + (n * x_n + h0.to(tl.int64) * x_h + w0.to(tl.int64) * x_w)[None, :]
        image = tl.load(x + at, inside & (column < columns)[:, None], 0)
        sum = dot_apart(gradient, image.T, sum, PRECISION)
    tile_m, tile_n, rest = digits(again(tl.program_id(0)), tiles_m, tiles_n)
    group, piece = (rest % groups).to(tl.int64), (rest // groups).to(tl.int64)
    row, column = tile_m * BM + tl.arange(0, BM), tile_n * BN + tl.arange(0, BN)
    to = dw + ((piece * groups + group) * rows + row)[:, None] * columns + column[None, :]
    tl.store(to, rounded(sum, dw.dtype.element_ty), (row < rows)[:, None] & (column < columns)[None, :])
