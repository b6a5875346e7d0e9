"""Samples of conv2d and of conv2d_relu_max_pool2d."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .. import _conv2d_relu_max_pool2d_route
from .._conv2d_route import CPU, GPU, RELU_GPU
from .._table import THREADS, Family
from ..conv2d import conv2d, conv2d_relu
from ..conv2d_relu_max_pool2d import conv2d_relu_max_pool2d
from .samples import Calls, Samples, When, as_on_cpu, draw, powers, root, step

POOLED = _conv2d_relu_max_pool2d_route.CPU
POOLED_GPU = _conv2d_relu_max_pool2d_route.GPU
_IMAGES = {"one": 1, "to 7": 4, "to 63": 16, "more": 64}
_SIDES = {"one tap": 1, "to 24 taps": 3, "more": 5}


@dataclass(frozen=True)
class _Sample:
    """Channels in and out, groups, and the image's height and width."""

    c: int
    k: int
    groups: int
    side: int


_FIRST = "one", "to 4"  # channels of images, which want no gradient in a network's first layer


def _stands_for(when: When) -> list[When]:
    """The rows that a measurement of this one fills: but for float32 those of all threads, and without the input's
    gradient those with it, where layers have it.
    """
    found = [when] if when.get("dtype", "float32") == "float32" else [when | {"threads": each} for each in THREADS]
    if when["gradient"] == "of input" and when["channels"] not in _FIRST:
        found += [each | {"gradient": "of weight"} for each in found]
    return found


def _candidates(family: Family, when: When) -> bool:
    """Whether there are such convolutions, of a kind that networks have."""
    if family.device == "cuda":
        return when.get("taps") != "more"
    if when["dtype"] != "float32" and when["threads"] == "several":
        return False
    if when["gradient"] == "of weight" and when["channels"] not in _FIRST:
        return False
    can_be_winograds = when["dtype"] == "float32" and when["strided"] == "no" and when["window"] != "one tap"
    if when["channels"].startswith("Winograd's"):
        # Pooled, Winograd's pays by its backward, and is fused with gradient alone.
        return can_be_winograds and (family is not POOLED or when["gradient"] != "no")
    if when["channels"] == "in blocks of 16" and can_be_winograds:
        return False
    if when["window"] == "one tap":
        return family is CPU and when["channels"] not in ("one", "to 4", "to 12")
    if when["strided"] == "yes" and when["window"] != ("more" if family is POOLED else "to 24 taps"):
        return when["channels"] in _FIRST
    return family is CPU or when["channels"] != "in groups"


def _sizes(family: Family, when: When) -> list[int]:
    if family.device == "cuda":
        return powers(14, 26)
    by = family.by(when)
    if by == "tiles per 4096 pairs of channels":
        return powers(0, 14)
    return powers(13, 27) if by.startswith("multiply") else powers(8, 20)


def _channels(when: When) -> tuple[tuple[int, int, int], ...]:
    """Pairs in and out, with their groups."""
    if (when["channels"], when["gradient"]) == ("to 4", "of input"):  # the others are images of three colours
        return (4, 12, 1), (2, 8, 1)
    return {
        "one": ((1, 6, 1), (1, 32, 1)),
        "to 4": ((3, 16, 1), (3, 64, 1)),
        "to 12": ((6, 16, 1), (10, 20, 1)),
        "others": ((20, 50, 1), (48, 40, 1)),
        "in blocks of 16": ((16, 16, 1), (64, 64, 1)),
        "in groups": ((32, 32, 32), (32, 32, 4)),
        "Winograd's to 48": ((16, 16, 1), (32, 32, 1)),
        "Winograd's": ((64, 64, 1), (256, 256, 1)),
    }[when["channels"]]


def _samples(when: When, size: int, by: str) -> list[_Sample]:
    """Those whose image's edge is one that layers have."""
    found = []
    taps, step_ = _SIDES[when["window"]] ** 2, 2 if when["strided"] == "yes" else 1
    for c, k, groups in _channels(when):
        if by.startswith("tiles"):
            area = 4 * size * c * k / 4096 / _IMAGES[when["images"]]
        elif by.startswith("multiply"):
            area = size * step_**2 * groups / (c * k * taps)
        else:
            area = size / (c + 2 * k / step_**2)
        side = root(area)
        if 4 <= side <= 256 and side >= _SIDES[when["window"]]:
            found.append(_Sample(c, k, groups, side))
    return found


def _calls(family: Family, when: When, size: int) -> Calls:
    if family.device == "cuda":
        return [_call_on_gpu(family, as_on_cpu(when), size, *shape) for shape in _ON_GPU[when.get("taps", "")]]
    return [_call(when, sample, family is POOLED) for sample in _samples(when, size, family.by(when))]


def _call(when: When, sample: _Sample, pooled: bool) -> Callable[[], object]:
    side = _SIDES[when["window"]]
    trains = when["gradient"] != "no"
    x = draw(
        when, _IMAGES[when["images"]], sample.c, sample.side, sample.side, needs_grad=when["gradient"] == "of input"
    )
    w = draw(when, sample.k, sample.c // sample.groups, side, side, needs_grad=trains)
    b = draw(when, sample.k, needs_grad=trains)
    options = 2 if when["strided"] == "yes" else 1, side // 2, 1, sample.groups
    if pooled:
        return step(lambda: conv2d_relu_max_pool2d(x, w, b, *options, pool_kernel_size=2), x, w, b)
    return step(lambda: conv2d(x, w, b, *options), x, w, b)


# By the taps that a GPU's row names: channels in and out of its samples of 3 x 3, and an image's side.
_ON_GPU = {"to 32": ((3, 32, 32),), "to 160": ((16, 32, 32),), "": ((3, 64, 32), (64, 64, 32), (512, 512, 8))}


def _call_on_gpu(family: Family, when: When, size: int, c: int, k: int, side: int) -> Callable[[], object]:
    """Of so many results."""
    n = max(1, size // (k * side * side))
    x, w, b = draw(when, n, c, side, side), draw(when, k, c, 3, 3), draw(when, k)
    if family is POOLED_GPU:
        return step(lambda: conv2d_relu_max_pool2d(x, w, b, 1, 1, pool_kernel_size=2), x, w, b)
    function = conv2d if family is GPU else conv2d_relu
    return step(lambda: function(x, w, b, 1, 1), x, w, b)


SAMPLES = Samples((CPU, GPU, RELU_GPU, POOLED, POOLED_GPU), _sizes, _calls, _candidates, _stands_for)
