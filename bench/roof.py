"""The roof: this machine's limits, measured in the run itself; a kernel's time is compared with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .clock import Clock, Contender, sample

COPIED = {"cpu": [1 << n for n in range(10, 28, 2)], "cuda": [1 << n for n in range(12, 32, 2)]}  # bytes moved
SIDE = {"cpu": 512, "cuda": 8192}  # of the square matrices multiplied
TRIES = 5


@dataclass(frozen=True)
class Work:
    """The floor of an op: bytes that must be read or written once, and floating-point operations."""

    bytes: float
    flops: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.flops + other.flops)


@dataclass(frozen=True)
class Roof:
    """copy: (bytes moved, bytes/s) by size, as caches and call overhead make it; gemm: FLOP/s by dtype."""

    copy: tuple[tuple[int, float], ...]
    gemm: dict[str, float]

    def bandwidth(self, size: float) -> float:
        """Bandwidth of a copy of that size: interpolated in the logarithm, constant beyond the measured sizes."""
        for (a, low), (b, high) in zip(self.copy, self.copy[1:]):
            if a <= size <= b:
                return low + (high - low) * math.log(size / a) / math.log(b / a)
        return self.copy[0 if size < self.copy[0][0] else -1][1]

    def seconds(self, work: Work, dtype: str) -> float:
        """The lower bound of the time: the slower of moving the bytes and doing the arithmetic."""
        return max(work.bytes / self.bandwidth(work.bytes), work.flops / self.gemm[dtype])


def fastest(run: Callable[[], object], clock: Clock, seconds: float) -> float:
    """Seconds of one run: the best of a few rounds, as a roof is what can be reached; of three runs if slow."""
    contender = Contender({"run": lambda _: run()})
    sample(clock, contender, 1)
    once = min(sample(clock, contender, 1)["run"] for _ in range(3))
    repeats = int(seconds / TRIES / max(once, 1e-6))
    return min(sample(clock, contender, repeats)["run"] for _ in range(TRIES)) if repeats else once


def products(a: torch.Tensor) -> list[Callable[[], object]]:
    """The available matrix products: torch's own and, in builds that have it, oneDNN's, faster on some processors."""
    fused = lambda: torch.ops.mkldnn._linear_pointwise(a, a, None, "none", [], "")
    try:
        fused()
    except (AttributeError, RuntimeError):
        return [lambda: a @ a]
    return [lambda: a @ a, fused]


def measure(device: str, dtypes: tuple[torch.dtype, ...], seconds: float) -> Roof:
    """Copies of several sizes into warm memory and one large product per dtype, `seconds` each."""
    clock, copy, gemm = Clock(device), [], {}
    for size in COPIED[device]:
        x = torch.ones(size // 8, device=device)
        y = torch.empty_like(x)
        copy.append((size, round(size / fastest(lambda x=x, y=y: y.copy_(x), clock, seconds))))
    for dtype in dtypes:
        a = torch.randn(SIDE[device], SIDE[device], device=device).to(dtype)
        best = min(fastest(run, clock, seconds) for run in products(a))
        gemm[str(dtype).removeprefix("torch.")] = round(2 * SIDE[device] ** 3 / best)
    for dtype, rate in gemm.items():
        gemm[dtype] = max(rate, gemm["float32"])  # a processor without bfloat16 arithmetic multiplies it as float32
    return Roof(tuple(copy), gemm)
