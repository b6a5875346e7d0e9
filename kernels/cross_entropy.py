"""cross_entropy: loss[p] = sum_j q[p, j] (log sum_k exp(x[p, k]) - x[p, j]); q is that of csrc/cross_entropy.h.

Forward reads x once and keeps two numbers a position; a program leaves the sums of its losses and of their weights to
total_kernel, PROGRAMS pairs at most. Backward has a program a tile, reads x and writes dx once:
dx = dloss (softmax(x) q_sum - q), a difference that is rounded once. Bound by bandwidth. cross_entropy_tile.py draws
the tile.

No tile is chosen by time: the loss's last bits, the order of its sum, would depend on the clock.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cross_entropy_tile import (
    Logits,
    backward_tile,
    class_index,
    forward_tile,
    index_weight,
    is_class,
    known,
    log_of_sum,
    logits,
    place,
    softmax,
    spread_weight,
    tiles,
)
from .launch import accumulator, implements, launch
from .product import scratch
from .tile import INTERPRETED, again, rounded, scalar

NONE, MEAN = 0, 1  # torch.nn._reduction's numbers
PROGRAMS = 8192
TOTAL = 2048  # sums that total_kernel adds at once


@triton.jit
def again_index(index):
    """:func:`again` of class indices, which are int64."""
    if INTERPRETED:
        return index
    else:
        return tl.inline_asm_elementwise("mov.b64 $0, $1;", "=l,l", [index], tl.int64, is_pure=False, pack=1)


@triton.jit(do_not_specialize=["stats_row", "sums_row", "positions", "ignore_index"], debug=True)
def softmax_kernel(
    x, index, probability, weight, losses, stats, sums, stats_row, sums_row, positions, classes, side, ignore_index,
    keep: tl.float64, even: tl.float64, steps,
    SPREAD: tl.constexpr, PLANES: tl.constexpr, BY: tl.constexpr,
    POSITIONS: tl.constexpr, CLASSES: tl.constexpr, ACC: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Each position's stats and loss, and the sums of a program's losses and weights."""
    classes, side = known(classes, side, PLANES, BY)
    keep, even = scalar(keep, ACC), scalar(even, ACC)
    loss_sum = tl.zeros([POSITIONS], tl.float64)
    weight_sum = tl.zeros([POSITIONS], tl.float64)
    for step in range(steps):
        tile = tl.program_id(0).to(tl.int64) * steps + step
        position, here, start = place(tile, positions, classes, side, PLANES, POSITIONS)
        t = tl.full([POSITIONS], -1, tl.int64)
        if index is not None:
            t = class_index(index, position, here, classes, ignore_index)
        top, others, own, value, dot, q_sum = softmax(
            x, probability, weight, start, here, t, classes, side, keep, even, SPREAD, POSITIONS, CLASSES, ACC, STAGES
        )
        if PLANES:
            t = again_index(t)
            tile = again(tl.program_id(0)).to(tl.int64) * steps + step
            position, here, start = place(tile, positions, classes, side, PLANES, POSITIONS)
        total = others + own
        total = tl.where(total == 0, float("nan"), total)  # all logits are -inf
        log_sum = log_of_sum(own, others)
        if index is None:
            loss, counted = q_sum * log_sum + dot, here.to(ACC)
            tl.store(stats + 2 * stats_row + position, q_sum, here)
        else:
            counted = index_weight(weight, t, ACC)
            loss = keep * counted * (log_sum - (value - top))
            if SPREAD:
                loss += q_sum * log_sum + dot
            loss = tl.where(t >= 0, loss, 0.0)
        tl.store(stats + position, top, here)
        tl.store(stats + stats_row + position, 1 / total, here)
        if losses is not None:
            tl.store(losses + position, rounded(loss, losses.dtype.element_ty), here)
        loss_sum += tl.where(here, loss, 0.0).to(tl.float64)
        weight_sum += counted.to(tl.float64)
    tl.store(sums + tl.program_id(0), tl.sum(loss_sum))
    tl.store(sums + sums_row + tl.program_id(0), tl.sum(weight_sum))


@triton.jit(do_not_specialize=["count"])
def total_kernel(sums, loss, total_weight, count, MEAN: tl.constexpr, TOTAL: tl.constexpr, ACC: tl.constexpr):
    """The total weight, and the losses' sum or mean, in an order that their number fixes."""
    loss_sum, weight_sum = tl.zeros([TOTAL], tl.float64), tl.zeros([TOTAL], tl.float64)
    for first in range(0, count, TOTAL):
        at = first + tl.arange(0, TOTAL)
        loss_sum += tl.load(sums + at, at < count, 0.0)
        weight_sum += tl.load(sums + count + at, at < count, 0.0)
    total, divisor = tl.sum(loss_sum), tl.sum(weight_sum)
    tl.store(total_weight, divisor.to(ACC))
    if loss is not None:
        # Smoothing gives targets of weight 0 a loss, and total / 0 would be infinite: the mean over no weight is NaN.
        result = total / divisor * tl.where(divisor == 0, float("nan"), 1.0) if MEAN else total
        tl.store(loss, rounded(result.to(ACC), loss.dtype.element_ty))


@triton.jit(do_not_specialize=["stats_row", "positions", "ignore_index"])
def gradient_kernel(
    dx, dloss, divisor, x, index, probability, weight, weight_sum, stats, stats_row, positions, classes, side,
    ignore_index, keep: tl.float64, even: tl.float64,
    EACH: tl.constexpr, SPREAD: tl.constexpr, PLANES: tl.constexpr, BY: tl.constexpr,
    POSITIONS: tl.constexpr, CLASSES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A tile of dx. dloss is one of each position, one of all, or None for 1; a mean has a divisor, else None."""
    classes, side = known(classes, side, PLANES, BY)
    keep, even = scalar(keep, ACC), scalar(even, ACC)
    steps = tl.cdiv(classes, CLASSES)
    program = tl.program_id(0).to(tl.int64)
    position, here, start = place(program // steps, positions, classes, side, PLANES, POSITIONS)
    first = program % steps * CLASSES
    j = first + tl.arange(0, CLASSES)[None, :]
    inside = here[:, None] & (j < classes)
    at = start[:, None] + j * side
    value = tl.load(x + at, inside, 0.0, eviction_policy="evict_first").to(ACC)

    scale = here.to(ACC)
    if dloss is not None:
        scale *= (tl.load(dloss + position, here, 0.0) if EACH else tl.load(dloss)).to(ACC)
    if divisor is not None:
        scale *= 1 / tl.load(divisor)
    if index is None:
        q_sum = tl.load(stats + 2 * stats_row + position, here, 0.0)
    else:
        t = class_index(index, position, here, classes, ignore_index)
        scale = tl.where(t >= 0, scale, 0.0)
        at_index = keep * index_weight(weight, t, ACC)
        q_sum = at_index
        if SPREAD:
            q_sum += even * (classes if weight_sum is None else tl.load(weight_sum))
    top = tl.load(stats + position, here, 0.0)
    factor = scale * q_sum * tl.load(stats + stats_row + position, here, 0.0)

    gradient = tl.exp(value - top[:, None]) * factor[:, None]
    if SPREAD:
        gradient -= spread_weight(probability, weight, at, j, inside, keep, even, ACC) * scale[:, None]
    if index is not None:
        gradient -= tl.where(is_class(t, first, CLASSES), (at_index * scale)[:, None], 0.0)
    tl.store(dx + at, rounded(gradient, dx.dtype.element_ty), inside)


class Options(NamedTuple):
    weight: Tensor | None
    weight_sum: Tensor | None  # where smoothing spreads an index over weighted classes
    ignore_index: int
    label_smoothing: float

    @classmethod
    def of(cls, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float) -> "Options":
        if weight is None:
            return cls(None, None, ignore_index, label_smoothing)
        spread = target.dtype == torch.int64 and label_smoothing != 0
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        return cls(weight.contiguous(), weight.sum(dtype=dtype) if spread else None, ignore_index, label_smoothing)

    def numbers(self, of: Logits) -> tuple:
        """What the kernels take, positions to even."""
        keep, even = 1 - self.label_smoothing, self.label_smoothing / of.classes
        return of.positions, of.classes, of.side, self.ignore_index, keep, even

    def spread(self, of: Logits) -> bool:
        """Whether every class has a target weight."""
        return of.probability is not None or self.label_smoothing != 0


def programs(of: Logits) -> tuple[int, int]:
    """Of softmax_kernel: how many, and how many tiles each takes."""
    count = tiles(of, forward_tile(of))
    each = max(1, triton.cdiv(count, PROGRAMS))
    return triton.cdiv(count, each), each


def forward(of: Logits, options: Options, losses: Tensor | None, stats: Tensor, sums: Tensor) -> None:
    """Fills losses, stats [2 or 3, positions] and sums [2, programs]."""
    count, each = programs(of)
    launch(
        softmax_kernel, (count,), of.x, of.index, of.probability, options.weight, losses, stats, sums, stats.stride(0),
        sums.stride(0), *options.numbers(of), each, SPREAD=options.spread(of), **forward_tile(of),
    )  # fmt: skip


def total(loss: Tensor | None, total_weight: Tensor, mean: bool, sums: Tensor) -> None:
    launch(
        total_kernel, (1,), sums, loss, total_weight, sums.shape[1], MEAN=mean, TOTAL=TOTAL,
        ACC=accumulator(total_weight), num_warps=4, num_stages=1,
    )  # fmt: skip


def backward(
    dx: Tensor, of: Logits, options: Options, dloss: Tensor | None, each: bool, divisor: Tensor | None, stats: Tensor
) -> None:
    """Fills dx, which may be the logits."""
    meta = backward_tile(of)
    grid = (tiles(of, meta) * triton.cdiv(of.classes, meta["CLASSES"]),)
    launch(
        gradient_kernel, grid, dx, dloss, divisor, of.x, of.index, of.probability, options.weight, options.weight_sum,
        stats, stats.stride(0), *options.numbers(of), EACH=each, SPREAD=options.spread(of), **meta,
    )  # fmt: skip


@implements("cross_entropy")
def cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float, reduction: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    of = logits(x, target)
    options = Options.of(target, weight, ignore_index, label_smoothing)
    each, mean = reduction == NONE, reduction == MEAN
    loss = x.new_empty(x.shape[:1] + x.shape[2:] if each and x.dim() > 1 else ())
    saved = scratch(x, of.stats_size())
    stats, total_weight = of.stats(saved)
    sums = x.new_empty(2, programs(of)[0], dtype=torch.float64)
    forward(of, options, loss if each else None, stats, sums)
    total(None if each else loss, total_weight, mean, sums)
    return loss, saved


@implements("cross_entropy_backward")
def cross_entropy_backward(
    dloss: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, stats: Tensor, ignore_index: int,
    label_smoothing: float, reduction: int,
) -> Tensor:  # fmt: skip
    of = logits(x, target)
    stats, total_weight = of.stats(stats)
    options, dx = Options.of(target, weight, ignore_index, label_smoothing), torch.empty_like(of.x)
    divisor = total_weight if reduction == MEAN else None
    backward(dx, of, options, dloss.contiguous(), reduction == NONE, divisor, stats)
    return dx
