"""Samples of linear_cross_entropy."""

from __future__ import annotations

import torch

from .._linear_cross_entropy_route import CPU, GPU
from .._table import Family
from ..linear_cross_entropy import linear_cross_entropy
from .samples import Calls, Samples, When, as_on_cpu, draw, powers, step

_DEPTH = 128


def _sizes(family: Family, when: When) -> list[int]:
    return powers(12, 28) if family is GPU else powers(6, 22)


def _calls(family: Family, when: When, size: int) -> Calls:
    if family is GPU:
        when = as_on_cpu(when)
    rows = max(1, min(256, size >> 6))
    classes = max(2, size // rows)
    x, w, b = draw(when, rows, _DEPTH), draw(when, classes, _DEPTH), draw(when, classes)
    target = torch.randint(classes, (rows,))
    return [step(lambda: linear_cross_entropy(x, w, target, linear_bias=b), x, w, b)]


SAMPLES = Samples((CPU, GPU), _sizes, _calls)
