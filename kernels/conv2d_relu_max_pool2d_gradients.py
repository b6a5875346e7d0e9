"""The kernels of conv2d_relu_max_pool2d's backward: dw and db by parts of the results, the sum of the parts, dx."""

import triton
import triton.language as tl

from .conv2d_patches import CONFIGS, patches, place
from .launch import autotune
from .max_pool2d_tile import DEAD
from .tile import OUTSIDE, again, dot, rounded


@triton.jit
def conv2d_relu_max_pool2d_dw_kernel(
    sums, dy, offsets, x, count, channels, h, w, zh, zw, yh, yw, xn, xc, xh, xw, yn, yk, yp, yq,
    GROUP_C: tl.constexpr, GROUP_K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    POOL_H: tl.constexpr, POOL_W: tl.constexpr, POOL_SH: tl.constexpr, POOL_SW: tl.constexpr,
    POOL_PH: tl.constexpr, POOL_PW: tl.constexpr, WANT_DW: tl.constexpr,
    K: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr, POS: tl.constexpr,
):  # fmt: skip
    """Part program_id(0) of dw [channels, TAPS] and db [channels]: of every grid's length-th block of results."""
    TAPS: tl.constexpr = GROUP_C * R * S
    blocks: tl.constexpr = (GROUP_K + K - 1) // K
    group = tl.program_id(1) // blocks
    k = tl.program_id(1) % blocks * K + tl.arange(0, K)
    k_inside, k = k < GROUP_K, group * GROUP_K + k
    t = tl.program_id(2) * CHUNK + tl.arange(0, CHUNK)
    dw = tl.zeros([K, CHUNK], ACC)
    db = tl.zeros([K], ACC)
    for block in range(tl.program_id(0), tl.cdiv(count, POS), tl.num_programs(0)):
        n, i, j, at = place(block, yh, yw, POS)
        from_ = (n * yn + i.to(tl.int64) * yp + j.to(tl.int64) * yq)[:, None] + (k.to(tl.int64) * yk)[None, :]
        named = tl.load(offsets + from_, (at < count)[:, None] & k_inside[None, :], other=DEAD).to(tl.int32)
        g = tl.load(dy + from_, named != DEAD, other=0)
        db += tl.sum(g.to(ACC), 0)
        if WANT_DW:
            for m in range(POOL_H * POOL_W):
                p, q = i * POOL_SH - POOL_PH + m // POOL_W, j * POOL_SW - POOL_PW + m % POOL_W
                inside = (at < count) & (p >= 0) & (p < zh) & (q >= 0) & (q < zw)
                a = patches(x, n, p, q, inside, t, group, h, w, xn, xc, xh, xw, GROUP_C, R, S, SH, SW, PH, PW, DH, DW)
                dw = dot(tl.trans(tl.where(named == m, g, 0.0)), a, dw, PRECISION)
    part = sums + tl.program_id(0).to(tl.int64) * channels * (TAPS + 1)
    if WANT_DW:
        tl.store(part + (k * TAPS)[:, None] + t[None, :], dw, k_inside[:, None] & (t < TAPS)[None, :])
    if tl.program_id(2) == 0:
        tl.store(part + channels * TAPS + k, db, k_inside)


@triton.jit
def sum_parts_kernel(
    dw, db, sums, parts, weights, count, c, r, s, wk, wc, wr, ws,
    WANT_DW: tl.constexpr, WANT_DB: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dw and db: the sums over the parts, in an order that depends on their number alone."""
    i = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], ACC)
    for first in range(0, parts, ROWS):
        part = first + tl.arange(0, ROWS)
        inside = (part < parts)[:, None] & (i < count)[None, :]
        total += tl.sum(tl.load(sums + (part.to(tl.int64) * count)[:, None] + i[None, :], inside, other=0), 0)
    if WANT_DW:
        to = i // (c * r * s) * wk + i // (r * s) % c * wc + i // s % r * wr + i % s * ws
        tl.store(dw + to, rounded(total, dw.dtype.element_ty), i < weights)
    if WANT_DB:
        tl.store(db + i - weights, rounded(total, db.dtype.element_ty), (i >= weights) & (i < count))


@autotune(CONFIGS, key=["count", "h", "w"])
@triton.jit
def conv2d_relu_max_pool2d_dx_kernel(
    dx, dy, offsets, weight, count, h, w, zh, zw, yh, yw, xn, xc, xh, xw, yn, yk, yp, yq,
    GROUP_C: tl.constexpr, GROUP_K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    POOL_H: tl.constexpr, POOL_W: tl.constexpr, POOL_SH: tl.constexpr, POOL_SW: tl.constexpr,
    POOL_PH: tl.constexpr, POOL_PW: tl.constexpr,
    C: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
    SCALE: tl.constexpr,
):  # fmt: skip
    POS: tl.constexpr = BLOCK * SCALE
    TAPS: tl.constexpr = GROUP_C * R * S
    HIGH: tl.constexpr = (POOL_H - 1) // POOL_SH + 1  # windows that can hold one row of z
    WIDE: tl.constexpr = (POOL_W - 1) // POOL_SW + 1
    blocks: tl.constexpr = (GROUP_C + C - 1) // C
    n, row, column, at = place(tl.program_id(0), h, w, POS)
    row = tl.where(at < count, row, OUTSIDE)
    group = tl.program_id(1) // blocks
    c = tl.program_id(1) % blocks * C + tl.arange(0, C)
    sum = tl.zeros([POS, C], ACC)
    for step in range(R * S * HIGH * WIDE):
        rs, window = step // (HIGH * WIDE), step % (HIGH * WIDE)
        down, right = row + PH - rs // S * DH, column + PW - rs % S * DW
        p, q = down // SH, right // SW
        i, j = (p + POOL_PH) // POOL_SH - window // WIDE, (q + POOL_PW) // POOL_SW - window % WIDE
        a, b = p + POOL_PH - i * POOL_SH, q + POOL_PW - j * POOL_SW  # z's tap in that window
        inside = (down >= 0) & (right >= 0) & (down % SH == 0) & (right % SW == 0) & (p < zh) & (q < zw)
        inside = inside & (i >= 0) & (i < yh) & (j >= 0) & (j < yw) & (a < POOL_H) & (b < POOL_W)
        start = n * yn + i.to(tl.int64) * yp + j.to(tl.int64) * yq
        for first in range(0, GROUP_K, CHUNK):
            k = first + tl.arange(0, CHUNK)
            k_inside, k = k < GROUP_K, group * GROUP_K + k
            from_ = start[:, None] + (k.to(tl.int64) * yk)[None, :]
            readable = inside[:, None] & k_inside[None, :]
            named = tl.load(offsets + from_, readable, other=DEAD).to(tl.int32)
            g = tl.load(dy + from_, readable, other=0)
            dz = tl.where(named == (a * POOL_W + b)[:, None], g, 0.0)
            weights = weight + (k * TAPS)[:, None] + (c * R * S + rs)[None, :]
            weights = tl.load(weights, k_inside[:, None] & (c < GROUP_C)[None, :], other=0)
            sum = dot(dz, weights, sum, PRECISION)
    n, row, column, at = place(again(tl.program_id(0)), h, w, POS)
    to = n * xn + row.to(tl.int64) * xh + column.to(tl.int64) * xw
    to = to[:, None] + ((group * GROUP_C + c).to(tl.int64) * xc)[None, :]
    tl.store(dx + to, rounded(sum, dx.dtype.element_ty), (at < count)[:, None] & (c < GROUP_C)[None, :])
