"""Microseconds of an eager call and of the device, and a GPU's roof, for the rows of bench/gpu_rows.py."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import torch

from . import roof
from .clock import captured

TF32 = "tf32"
REPLAYS = 7


def call_us(run: Callable[[], object], repeats: int) -> float:
    """Microseconds of one eager call among others: the longer of the host's and the device's time."""
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize()
    return 1e6 * (time.perf_counter() - start) / repeats


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_us(run: Callable[[], object], repeats: int) -> float:
    """Microseconds on the device: several runs in one graph, replayed; on a CPU, which has no graphs, of one call."""
    if not torch.cuda.is_available():
        return call_us(run, 1)

    def several() -> None:
        for _ in range(repeats):
            run()

    (replay,) = captured(several).phases.values()
    found = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        replay(None)
        end.record()
        end.synchronize()
        found.append(1e3 * start.elapsed_time(end) / repeats)
    return statistics.median(found)


def roof_of(device: str) -> roof.Roof:
    """Copies and large products, timed as the rows are; float32's products also in TF32, which cuDNN uses for them."""
    copies = []
    for size in roof.COPIED[device]:
        x = torch.ones(size // 8, device=device)
        y = torch.empty_like(x)
        copies.append((size, round(1e6 * size / device_us(functools.partial(y.copy_, x), 10))))
    side = roof.SIDE[device]
    a, rates = torch.randn(side, side, device=device), {}
    for name, dtype in (("float32", torch.float32), (TF32, torch.float32), ("bfloat16", torch.bfloat16)):
        before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, name == TF32
        b = a.to(dtype)
        rates[name] = round(2e6 * side**3 / device_us(functools.partial(torch.mm, b, b), 2))
        torch.backends.cuda.matmul.allow_tf32 = before
    return roof.Roof(tuple(copies), rates)
