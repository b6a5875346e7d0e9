"""Samples of cross_entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .._cross_entropy_route import CPU, GPU
from .._table import Family
from ..cross_entropy import cross_entropy
from .samples import Calls, Samples, When, as_on_cpu, draw, powers, root, step

_CLASSES = {"to 15": (10,), "to 512": (64, 256), "more": (1000,)}
# The classes of a GPU's kinds of rows on the CPU.
_KINDS = {
    "to 32 classes": {"form": "reduced rows", "classes": "to 15"},
    "to 512 classes": {"form": "reduced rows", "classes": "to 512"},
    "more classes": {"form": "reduced rows", "classes": "more"},
    "planes": {"form": "planes", "classes": "to 15"},
}


def _sizes(family: Family, when: When) -> list[int]:
    if family is GPU:
        return powers(10, 28)
    return powers({"to 15": 4, "to 512": 8, "more": 12}[when["classes"]], 22)


def _calls(family: Family, when: When, size: int) -> Calls:
    if family is GPU:
        when = as_on_cpu(when, **_KINDS[when["kind"]])
    return [_call(when, size, classes) for classes in _CLASSES[when["classes"]]]


def _call(when: When, size: int, classes: int) -> Callable[[], object]:
    form = when["form"]
    positions = max(1, size // classes)
    images = max(1, min(8, positions // 4))
    side = root(positions / images)
    shape = (images, classes, side, side) if form == "planes" else (positions, classes)
    x = draw(when, *shape)
    if form == "probabilities":
        target = torch.rand(shape).softmax(1).to(x.dtype)
    else:
        target = torch.randint(classes, (shape[0], *shape[2:]))
    reduction = "none" if form == "unreduced rows" else "mean"
    return step(lambda: cross_entropy(x, target, reduction=reduction), x)


SAMPLES = Samples((CPU, GPU), _sizes, _calls)
