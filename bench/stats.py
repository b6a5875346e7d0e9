"""Statistics of interleaved rounds: the order of turns, the median ratio and its bootstrap interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000


@dataclass(frozen=True)
class Ratio:
    """How many times faster than stock: the median over rounds and the 95 % interval of that median."""

    value: float
    low: float
    high: float


def order(names: Sequence[str], turn: int) -> list[str]:
    """The order in round `turn`: rotated so that each has every position equally often, reversed every other cycle."""
    names = list(names)
    cycle, shift = divmod(turn, len(names))
    turned = names[shift:] + names[:shift]
    return turned[::-1] if cycle % 2 else turned


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median, by bootstrap; the same for the same values."""
    values = np.asarray(values)
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)


def ratio(stock: Sequence[float], other: Sequence[float]) -> Ratio:
    """Stock's time over the other's, round by round: what slows a whole round cancels."""
    ratios = [a / b for a, b in zip(stock, other, strict=True)]
    return Ratio(float(np.median(ratios)), *interval(ratios))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
