"""Samples of dropout and its channel forms."""

from __future__ import annotations

from .._dropout_route import CPU, GPU
from .._table import Family
from ..dropout import dropout
from ..dropout_channels import dropout2d
from .samples import Calls, Samples, When, as_on_cpu, draw, powers, step


def _sizes(family: Family, when: When) -> list[int]:
    if family is GPU:
        return powers(12, 28)
    return powers(4, 22)


def _calls(family: Family, when: When, size: int) -> Calls:
    if family is GPU:
        when = as_on_cpu(when)
    if when["of"] == "elements":
        x = draw(when, size)
        return [step(lambda p=p: dropout(x, p), x) for p in (0.1, 0.5)]
    images = max(1, size // 64)
    x = draw(when, images, size // images, 7, 7)
    return [step(lambda: dropout2d(x, 0.5), x)] if x.numel() <= 1 << 23 else []


SAMPLES = Samples((CPU, GPU), _sizes, _calls)
