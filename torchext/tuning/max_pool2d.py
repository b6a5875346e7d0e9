"""Samples of max_pool2d."""

from __future__ import annotations

from .._max_pool2d_route import CPU, GPU
from .._table import Family
from ..max_pool2d import max_pool2d, max_pool2d_with_indices
from .samples import Calls, Samples, When, as_on_cpu, draw, in_layout, powers, step

_WINDOWS = {"apart": {"kernel_size": 2}, "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1}}


def _candidates(family: Family, when: When) -> bool:
    return family is CPU or when["windows"] in _WINDOWS


def _sizes(family: Family, when: When) -> list[int]:
    return powers(12, 28) if family is GPU else powers(6, 22)


def _calls(family: Family, when: When, size: int) -> Calls:
    if family is GPU:
        when = as_on_cpu(when, indices="no")
    x = in_layout(draw(when, *shape(size)), when)
    window = _WINDOWS[when["windows"]]
    if when["indices"] == "yes":
        return [step(lambda: max_pool2d_with_indices(x, **window)[0], x)]
    return [step(lambda: max_pool2d(x, **window), x)]


def shape(size: int) -> tuple[int, int, int, int]:
    """Images of about so many elements in all, as small networks have them."""
    channels, side = (16, 32) if size >= 1 << 14 else (4, 8) if size >= 1 << 8 else (2, 4)
    return max(1, size // (channels * side * side)), channels, side, side


SAMPLES = Samples((CPU, GPU), _sizes, _calls, _candidates)
