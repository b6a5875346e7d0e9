"""Samples of batch_norm_relu_max_pool2d, which is fused in training alone."""

from __future__ import annotations

from .._batch_norm_relu_max_pool2d_route import CPU
from .._table import Family
from ..batch_norm_relu_max_pool2d import batch_norm_relu_max_pool2d
from .max_pool2d import shape
from .samples import Calls, Samples, When, draw, in_layout, powers, step


def _sizes(family: Family, when: When) -> list[int]:
    return powers(6, 22)


def _calls(family: Family, when: When, size: int) -> Calls:
    dimensions = shape(size)
    x = in_layout(draw(when, *dimensions, needs_grad=True), when)
    w, b = (draw(when, dimensions[1], needs_grad=True) for _ in range(2))
    call = lambda: batch_norm_relu_max_pool2d(x, None, None, w, b, True, pool_kernel_size=2)
    return [step(call, x, w, b)]


SAMPLES = Samples((CPU,), _sizes, _calls)
