"""The correctness column: distance from float64, ours beside stock's; a fast kernel that is wrong does not count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FACTOR, ROUNDINGS = 4.0, 16.0  # our error may be four times stock's and 16 roundings of the largest value
DRAWS = 3  # a rounding may tip a ReLU or a pool's tie and send a gradient elsewhere: in one draw, hardly in three
TIPPED = 1000.0  # roundings: more is a gradient sent elsewhere
SMALL = 0.01  # a result smaller than this share of the largest is judged as if it were of that size: it may be all 0


def results(function: Callable, tensors: Sequence[Tensor], dy: Tensor | None) -> list[Tensor]:
    """The value and every gradient; `dy` may be None where the value is a scalar."""
    y = function(*tensors)
    leaves = [t for t in tensors if t.requires_grad]
    dy = dy if dy is None else dy.to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)] if y.requires_grad else [y.detach()]


def double(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values in float64; labels as they are."""
    return [t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t for t in tensors]


def errors(actual: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """Per result: largest distance, in roundings (eps of the dtype) of the largest exact value; inf if not finite."""
    sizes = [e.abs().max().item() if e.numel() else 0.0 for e in exact]
    found = []
    for a, e, size in zip(actual, exact, sizes):
        scale = torch.finfo(a.dtype).eps * max(size, SMALL * max(sizes), torch.finfo(a.dtype).tiny)
        distance = (a.double() - e).abs().max().item() / scale if e.numel() else 0.0
        found.append(distance if math.isfinite(distance) else math.inf)
    return found


def compare(ours: Sequence[float], stock: Sequence[float]) -> dict[str, float]:
    """The column: the largest error, stock's beside it, and the share of what is allowed: above 1 is wrong."""
    allowed = FACTOR * max(stock) + ROUNDINGS
    return {"error": max(ours), "stock_error": max(stock), "excess": max(ours) / allowed}


def mildest(draw: Callable[[int], dict[str, float]]) -> dict[str, float]:
    """The first comparison without a tipped rounding, else the one with the smallest error."""
    found = []
    for seed in range(DRAWS):
        found.append(draw(seed))
        if found[-1]["excess"] <= 1 and found[-1]["error"] < TIPPED:
            break
    best = min(found, key=lambda figures: (figures["excess"] > 1, figures["error"]))
    return {key: round(value, 3) for key, value in best.items()}


class WrongResult(AssertionError):
    """A provider's results are further from float64 than stock's error allows."""
