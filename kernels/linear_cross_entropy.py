"""linear_cross_entropy: cross_entropy(z, target) of logits z = x w^T + b that are never held whole, and its gradients.

Rows of x go through in chunks, all in one piece of scratch that most of it finds in L2 again:

    x [n, k]  +-------+      z [chunk, c, ...]              dx [n, k]  +-------+
              | chunk | w^T  -> softmax -> dz in its place  -> dz w    | chunk |     dw += dz^T x     db += 1^T dz
              +-------+                                                +-------+

The products are linear_relu.py's, the softmax cross_entropy.py's. Shares of dw and db are added up unrounded, one chunk
after the other, a share of dw by PIECE bytes. Three products of 2 n c k operations each bound it where k is a few
hundred; the logits' 5 passes do below.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cross_entropy import MEAN, NONE, Options, backward, forward, programs, total
from .cross_entropy_tile import Logits, class_index, index_weight
from .launch import accumulator, implements, launch
from .linear_relu import product
from .product import scratch
from .relu_backward import relu_backward
from .tile import rounded

PIECE = 32 << 20  # of a share of dw: enough tiles for every processor
BLOCK = 2048


@triton.jit(do_not_specialize=["positions", "classes", "ignore_index"], debug=True)
def target_weight_kernel(
    total, index, weight, positions, classes, ignore_index, BLOCK: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """The total weight, which a mean's gradient wants before the first chunk. One program, n indices: microseconds."""
    sum = tl.zeros([BLOCK], tl.float64)
    for first in range(0, positions, BLOCK):
        position = first + tl.arange(0, BLOCK).to(tl.int64)
        t = class_index(index, position, position < positions, classes, ignore_index)
        sum += index_weight(weight, t, ACC).to(tl.float64)
    tl.store(total, rounded(tl.sum(sum), ACC))


@dataclass
class Problem:
    """Of both directions: dense matrices and the options."""

    x: Tensor
    w: Tensor  # [columns, k]
    b: Tensor | None  # [columns]
    target: Tensor
    options: Options
    chunk: int
    classes: int

    @property
    def side(self) -> int:
        return len(self.w) // self.classes

    def logits(self, z: Tensor, row: int) -> Logits:
        """A chunk's from `row` on."""
        target = self.target[row : row + len(z)]
        index = target.dtype == torch.int64
        shape = len(z) * self.side, self.classes, self.side
        return Logits(z, target if index else None, None if index else target, *shape)

    def whole(self) -> Logits:
        return self.logits(self.x, 0)

    def chunks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(first row, rows of x, their logits) of each chunk, all in the same scratch."""
        room = self.x.new_empty(min(self.chunk, len(self.x)), len(self.w))
        for row in range(0, len(self.x), self.chunk):
            x = self.x[row : row + self.chunk]
            z = room[: len(x)]
            product(z, x, self.w, self.b)
            yield row, x, z


class Sum:
    """result [rows, ...] = the sum of the chunks' shares, kept in accumulators where there is more than one."""

    def __init__(self, result: Tensor, chunks: int):
        self.result, self.chunks, self.added = result, chunks, 0
        wide = result.dtype == scratch(result, 0).dtype
        self.sum = result if wide or chunks == 1 else scratch(result, *result.shape)
        self.rows = max(1, PIECE // max(1, self.sum[:1].numel() * self.sum.itemsize))
        self.piece = None if chunks <= 1 else scratch(result, *self.sum[: self.rows].shape)

    def add(self, write: Callable[[Tensor, int], None]) -> None:
        """write(to, j) fills `to` with the share's rows from j on."""
        for j in range(0, len(self.sum), self.rows):
            part = self.sum[j : j + self.rows]
            first = self.added == 0
            to = part if first else self.piece[: len(part)]
            write(to, j)
            if not first:
                part.add_(to)
        self.added += 1
        if self.added == self.chunks and self.sum is not self.result:
            self.result.copy_(self.sum)


class Gradients:
    """dx, dw and db, each filled chunk by chunk if wanted, else empty."""

    def __init__(self, p: Problem, w: Tensor, b: Tensor | None, want_dx: bool, want_dw: bool, want_db: bool):
        self.wanted = want_dx, want_dw, want_db and b is not None
        make = torch.Tensor.new_zeros if len(p.x) == 0 else torch.Tensor.new_empty
        shapes = (t.shape if want else (0,) for t, want in zip((p.x, w, b), self.wanted))
        self.results = tuple(make(p.x, shape) for shape in shapes)
        self.w = p.w
        chunks = triton.cdiv(len(p.x), p.chunk)
        self.dw = Sum(self.results[1].view(p.w.shape), chunks) if want_dw else None
        self.db = Sum(self.results[2].view(-1), chunks) if self.wanted[2] else None

    def add(self, row: int, x: Tensor, dz: Tensor) -> None:
        if self.wanted[0]:
            product(self.results[0][row : row + len(x)], dz, self.w.t())
        if self.dw is not None:
            self.dw.add(lambda to, j: product(to, dz[:, j : j + len(to)].t(), x.t()))
        if self.db is not None:
            self.db.add(lambda to, j: relu_backward(dz[:, j : j + len(to), None], None, None, to))


def problem(x, w, b, target, weight, ignore_index: int, label_smoothing: float, chunk: int) -> Problem:
    options = Options.of(target, weight, ignore_index, label_smoothing)
    b = None if b is None else b.contiguous().view(-1)
    w2 = w.contiguous().view(math.prod(w.shape[:-1]), w.shape[-1])
    return Problem(x.contiguous(), w2, b, target.contiguous(), options, chunk, w.shape[0])


@implements("linear_cross_entropy")
def linear_cross_entropy(
    x: Tensor, w: Tensor, b: Tensor | None, target: Tensor, weight: Tensor | None, ignore_index: int,
    label_smoothing: float, reduction: int, chunk: int, want_dx: bool, want_dw: bool, want_db: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    p = problem(x, w, b, target, weight, ignore_index, label_smoothing, chunk)
    each, mean, whole = reduction == NONE, reduction == MEAN, p.whole()
    loss = x.new_empty((len(x), *w.shape[1:-1]) if each else ())
    saved = scratch(x, whole.stats_size())
    stats, total_weight = whole.stats(saved)
    gradients = Gradients(p, w, b, want_dx, want_dw, want_db)
    if mean and any(gradients.wanted):
        fill_total_weight(total_weight, whole, p.options)
    losses, sums = loss.view(-1) if each else None, []
    for row, rows, z in p.chunks():
        of, here = p.logits(z, row), slice(row * p.side, (row + len(z)) * p.side)
        sums.append(x.new_empty(2, programs(of)[0], dtype=torch.float64))
        forward(of, p.options, None if losses is None else losses[here], stats[:, here], sums[-1])
        if any(gradients.wanted):
            backward(z, of, p.options, None, False, total_weight if mean else None, stats[:, here])
            gradients.add(row, rows, z)
    every = torch.cat(sums, 1) if sums else x.new_empty(2, 0, dtype=torch.float64)
    total(None if each else loss, total_weight, mean, every)
    return loss, saved, *gradients.results


def fill_total_weight(total_weight: Tensor, of: Logits, options: Options) -> None:
    if of.index is None:
        total_weight.fill_(of.positions)
    else:
        launch(
            target_weight_kernel, (1,), total_weight, of.index, options.weight, of.positions, of.classes,
            options.ignore_index, BLOCK=BLOCK, ACC=accumulator(total_weight), num_warps=8, num_stages=1,
        )  # fmt: skip


@implements("linear_cross_entropy_backward")
def linear_cross_entropy_backward(
    dloss: Tensor, x: Tensor, w: Tensor, b: Tensor | None, target: Tensor, weight: Tensor | None, stats: Tensor,
    ignore_index: int, label_smoothing: float, reduction: int, chunk: int, want_dx: bool, want_dw: bool, want_db: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    p = problem(x, w, b, target, weight, ignore_index, label_smoothing, chunk)
    each, dloss = reduction == NONE, dloss.contiguous().view(-1)
    stats, total_weight = p.whole().stats(stats)
    gradients = Gradients(p, w, b, want_dx, want_dw, want_db)
    for row, rows, z in p.chunks():
        here = slice(row * p.side, (row + len(z)) * p.side)
        of, divisor = p.logits(z, row), total_weight if reduction == MEAN else None
        backward(z, of, p.options, dloss[here] if each else dloss, each, divisor, stats[:, here])
        gradients.add(row, rows, z)
    return gradients.results
