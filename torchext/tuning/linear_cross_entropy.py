"""Samples of linear_cross_entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .._linear_cross_entropy_route import CPU, GPU
from .._table import Family
from ..linear_cross_entropy import linear_cross_entropy
from .samples import When, as_on_cpu, draw, powers, step

FAMILIES = (CPU, GPU)
_DEPTH = 128


def stands_for(when: When) -> list[When]:
    return [when]


def candidates(family: Family, when: When) -> bool:
    return True


def sizes(family: Family, when: When) -> list[int]:
    return powers(12, 28) if family is GPU else powers(6, 22)


def calls(family: Family, when: When, size: int) -> list[Callable[[], object]]:
    if family is GPU:
        when = as_on_cpu(when)
    rows = max(1, min(256, size >> 6))
    classes = max(2, size // rows)
    x, w, b = draw(when, rows, _DEPTH), draw(when, classes, _DEPTH), draw(when, classes)
    target = torch.randint(classes, (rows,))
    return [step(lambda: linear_cross_entropy(x, w, target, linear_bias=b), x, w, b)]
