"""The tile of cross_entropy's kernels, and what they do with it.

Logits are [n, classes, side], dense in that order; a position p is a pair of n and side. A tile is 512 elements for
each of its warps, whose threads lie along whichever of positions and classes are neighbours in memory:

             j ->  CLASSES
     p  +-----------------------+      top     running maximum                                     all [POSITIONS]
     |  | x[start(p) + j * side] |      others  sum of exp(x - top) but for the target's class, [POSITIONS, CLASSES]
     v  +-----------------------+      dot     sum of q (top - x), where every class has a target weight
     POSITIONS                         q_sum   sum of q, likewise

The tile walks down the classes. A step costs one reduction, that of the maximum, and one exp an element: a tile of sums
is added up at the end.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import accumulator
from .tile import check, multiple

LOWEST = tl.constexpr(torch.finfo(torch.float32).min)
LOWEST_DOUBLE = tl.constexpr(torch.finfo(torch.float64).min)


@triton.jit
def place(tile, positions, classes, side, PLANES: tl.constexpr, POSITIONS: tl.constexpr):
    """A tile's positions, which of them exist, and where each one's logits begin. A tile is within one plane."""
    column = tl.arange(0, POSITIONS)
    if PLANES:
        across = tl.cdiv(side, POSITIONS)
        plane, column = tile // across, tile % across * POSITIONS + column
        inside = tl.where(plane * side < positions, side, 0)
        return plane * side + column, column < inside, plane * classes * side + column
    else:
        position = tile * POSITIONS + column
        return position, position < positions, position * classes


@triton.jit
def known(classes, side, PLANES: tl.constexpr, BY: tl.constexpr):
    """classes and side, whichever runs along memory known to be a multiple of BY."""
    if PLANES:
        return classes, multiple(side, BY)
    else:
        return multiple(classes, BY), side


@triton.jit
def spread_weight(probability, weight, at, j, inside, keep, even, ACC: tl.constexpr):
    """q in a tile, 0 outside of it; of a class index, only the part that smoothing spreads over the classes."""
    q = tl.where(inside, even, 0.0)
    if probability is not None:
        q += keep * tl.load(probability + at, inside, 0.0, eviction_policy="evict_first").to(ACC)
    if weight is not None:
        q *= tl.load(weight + j, inside, 0.0).to(ACC)
    return q


@triton.jit
def class_index(index, position, here, classes, ignore_index):
    """Each position's class index, -1 where it is ignored; one out of range fails the kernel's assertion."""
    t = tl.load(index + position, here, ignore_index)
    counts, exists = t != ignore_index, (t >= 0) & (t < classes)
    check(exists | ~counts, "Target is out of bounds")
    return tl.where(counts & exists, t, -1)


@triton.jit
def index_weight(weight, t, ACC: tl.constexpr):
    """The class weight of each position's index, 0 where it is ignored."""
    if weight is None:
        return (t >= 0).to(ACC)
    else:
        return tl.load(weight + t, t >= 0, 0.0).to(ACC)


@triton.jit
def is_class(t, first, CLASSES: tl.constexpr):
    """Where in a tile that begins at class `first` a position's class is t; compared in 32 bits, half the work."""
    near = (t >= first) & (t < first + CLASSES)
    return tl.where(near, t - first, -1).to(tl.int32)[:, None] == tl.arange(0, CLASSES)[None, :]


@triton.jit
def log_of_sum(own, others):
    """log(own + others). A sure prediction's loss is log(1 + others), of which the sum keeps only some digits: the
    quotient restores the others."""
    sum = own + others
    return tl.log(sum) * tl.where((own == 1) & (sum != 1), others / (sum - 1), 1.0)


@triton.jit
def softmax(
    x, probability, weight, start, here, t, classes, side, keep, even,
    SPREAD: tl.constexpr, POSITIONS: tl.constexpr, CLASSES: tl.constexpr, ACC: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """(top, others, own, dot, q_sum): others and own are the sums of exp(x - top) over the classes but t and of t,
    which is -1 where there is none. The maximum starts at the lowest finite number: -inf adds a plain 0, NaN is left
    to the sums."""
    lowest: tl.constexpr = LOWEST_DOUBLE if ACC.is_fp64() else LOWEST
    value = tl.load(x + start + t * side, t >= 0, float("-inf")).to(ACC)
    top = tl.maximum(value, lowest)
    others = tl.zeros([POSITIONS, CLASSES], ACC)
    dot, q_sum = tl.zeros([POSITIONS], ACC), tl.zeros([POSITIONS], ACC)
    for first in tl.range(0, classes, CLASSES, num_stages=STAGES):
        j = first + tl.arange(0, CLASSES).to(tl.int64)[None, :]
        at = start[:, None] + j * side
        inside = here[:, None] & (j < classes)
        logit = tl.load(x + at, inside, float("-inf")).to(ACC)
        other = tl.where(is_class(t, first, CLASSES), float("-inf"), logit)
        higher = tl.maximum(top, tl.max(other, 1))
        others = others * tl.exp(top - higher)[:, None] + tl.exp(other - higher[:, None])
        if SPREAD:
            q = spread_weight(probability, weight, at, j, inside, keep, even, ACC)
            dot += tl.where(q_sum == 0, 0.0, q_sum * (higher - top))
            dot += tl.sum(tl.where(inside, q * (higher[:, None] - logit), 0.0), 1)
            q_sum += tl.sum(q, 1)
        top = higher
    return top, tl.sum(others, 1), tl.exp(value - top), value, dot, q_sum


class Logits(NamedTuple):
    """x and its targets in a layout that the kernels read, and their shape there."""

    x: Tensor
    index: Tensor | None
    probability: Tensor | None
    positions: int
    classes: int
    side: int

    def stats_size(self) -> int:
        return (2 if self.probability is None else 3) * self.positions + 1

    def stats(self, saved: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of what forward saves: [2 or 3, positions] and the total weight."""
        return saved[:-1].view(2 if self.probability is None else 3, self.positions), saved[-1:]


def classes_last(t: Tensor) -> bool:
    return t.dim() > 2 and t.movedim(1, -1).is_contiguous()


def logits(x: Tensor, target: Tensor) -> Logits:
    index = target.dtype == torch.int64
    rows = not x.is_contiguous() and classes_last(x) and (index or classes_last(target))
    if not rows:
        x = x.contiguous()
    if index or not rows:
        target = target.contiguous()
    positions = math.prod(x.shape[:1] + x.shape[2:]) if x.dim() > 1 else 1
    side = 1 if rows else max(1, math.prod(x.shape[2:]))
    return Logits(x, target if index else None, None if index else target, positions, x.shape[x.dim() > 1], side)


def forward_tile(of: Logits) -> dict:
    """Rows: as much of one, or as many, as 4 to 8 warps hold; longer ones come three tiles ahead. Planes: 16 bytes of
    positions and 4 classes a thread, which then reduces alone; from 1024 classes on, of fewer positions, a cache line
    of them."""
    count, size = triton.next_power_of_2(int(of.classes)), of.x.itemsize
    if of.side == 1:
        elements = min(max(count, 2048), 4096) // (2 if size == 8 else 1)
        classes = min(count, elements)
        return _meta(of, elements // classes, classes, elements // (256 if size == 8 else 512)) | _stages(of, classes)
    positions = min(triton.next_power_of_2(int(of.side)), (128 if count >= 1024 else 2048) // size)
    classes = min(count, 8192 // size // positions)
    return _meta(of, positions, classes, 4) | _stages(of, classes)


def backward_tile(of: Logits) -> dict:
    count, size = triton.next_power_of_2(int(of.classes)), of.x.itemsize
    if of.side == 1:
        classes = min(count, 2048)
        return _meta(of, 2048 // classes, classes, 4)
    positions = min(triton.next_power_of_2(int(of.side)), 2048 // size)
    return _meta(of, positions, min(count, 2048 // positions), 4)


def _stages(of: Logits, classes: int) -> dict:
    return {"STAGES": 3 if of.classes > classes else 1}


def _meta(of: Logits, positions: int, classes: int, warps: int) -> dict:
    along = of.side if of.side > 1 else of.classes
    return {
        "PLANES": of.side > 1, "BY": next(by for by in (16, 8, 4, 2, 1) if along % by == 0),
        "POSITIONS": positions, "CLASSES": classes, "ACC": accumulator(of.x), "num_warps": warps, "num_stages": 1,
    }  # fmt: skip


def tiles(of: Logits, meta: dict) -> int:
    """How many tiles are side by side."""
    across, rest = (of.side, of.positions // of.side) if meta["PLANES"] else (of.positions, 1)
    return rest * triton.cdiv(across, meta["POSITIONS"])
