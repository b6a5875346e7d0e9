"""Times ours against stock side by side: interleaved rounds in one process, medians, the ratio's bootstrap interval."""

from __future__ import annotations

import gc
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

import torchext

ROUNDS = 41
ROUND_SECONDS = 0.004  # long against the clock's resolution, short against the machine's moods


@dataclass(frozen=True)
class Row:
    """One line of a table: the two providers do the same work; `target` is the ratio promised, if any."""

    op: str
    shape: str
    stock: Callable[[], object]
    ours: Callable[[], object]
    target: float | None = None


@dataclass(frozen=True)
class Result:
    row: Row
    stock_us: float
    ours_us: float
    ratio: float
    low: float
    high: float


def _repeats(function: Callable) -> int:
    function()
    start = time.perf_counter()
    function()
    return max(1, int(ROUND_SECONDS / max(time.perf_counter() - start, 1e-7)))


def _round(function: Callable, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def _interval(ratios: list[float]) -> tuple[float, float]:
    """95 % interval of the median, by bootstrap."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(500))
    return medians[12], medians[-13]


def measure(row: Row) -> Result:
    """The two in turn, ours first in every other round, so that drift falls on both alike."""
    repeats = {f: _repeats(f) for f in (row.stock, row.ours)}
    times: dict[Callable, list[float]] = {row.stock: [], row.ours: []}
    gc.collect()
    gc.disable()
    try:
        for i in range(ROUNDS):
            for f in (row.stock, row.ours) if i % 2 else (row.ours, row.stock):
                times[f].append(_round(f, repeats[f]))
    finally:
        gc.enable()
    ratios = [a / b for a, b in zip(times[row.stock], times[row.ours])][2:]
    low, high = _interval(ratios)
    stock_us, ours_us = (1e6 * statistics.median(times[f][2:]) for f in (row.stock, row.ours))
    return Result(row, stock_us, ours_us, statistics.median(ratios), low, high)


def step(function: Callable, *inputs: torch.Tensor) -> Callable[[], None]:
    """Forward and backward of function(*inputs), gradients dropped afterwards as an optimiser's zero_grad does."""
    leaves = [t for t in inputs if t.requires_grad]
    y = function(*inputs)
    dy = torch.ones_like(y)

    def run():
        function(*inputs).backward(dy)
        for t in leaves:
            t.grad = None

    return run


def environment() -> dict[str, str]:
    """What a figure means nothing without."""
    return {
        "processor": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "torchext": f"{torchext.__version__}, {torchext._C.cpu_isa()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "work": "float32, contiguous unless said, forward + backward, stock eager as baseline",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


HEADER = (
    "| op | shape | stock, us | torchext, us | faster by | 95 % interval | target |\n|---|---|---:|---:|---:|---:|---:|"
)


def line(result: Result) -> str:
    """A row of the Markdown table; a missed target and a loss to stock say so."""
    target = result.row.target
    verdict = "" if target is None else f"{target:g}x" + ("" if result.ratio >= target else ", missed")
    slower = " (slower)" if result.high < 1 else ""
    return (
        f"| {result.row.op} | {result.row.shape} | {result.stock_us:.1f} | {result.ours_us:.1f} "
        f"| {result.ratio:.2f}x{slower} | {result.low:.2f}-{result.high:.2f} | {verdict} |"
    )


def table(rows: Iterable[Row]) -> list[Result]:
    """Measures every row and prints it as it comes, as one Markdown table."""
    for name, value in environment().items():
        print(f"{name:10s}{value}")
    print(HEADER)
    results = []
    for row in rows:
        results.append(measure(row))
        print(line(results[-1]), flush=True)
    return results
