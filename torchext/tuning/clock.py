"""Times routes of one call in turn, and tells which is faster beyond the noise; ties are stock's."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

MARGIN = 1.01  # a percent comes of where tensors lie in memory, the same in every round
EARLY = 1.15  # so clear an answer ends the rounds: whoever looks after each for less finds it by chance at last
HOPELESS = 3  # times as long as stock in two runs
FEWEST = 6  # rounds: then smallest and largest of them hold the median with 97 %, whatever the times' distribution


@dataclass(frozen=True)
class Ratio:
    """How many times faster than stock: the median over the rounds, and the interval that holds it with 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Effort:
    """What a measurement may take: seconds of one round of one route, the most rounds, and seconds in all; and how many
    rungs of a ladder lie between two sizes that are measured first.
    """

    round: float
    rounds: int
    seconds: float
    stride: int = 6


FULL, QUICK = Effort(3e-4, 45, 0.12), Effort(2e-4, 9, 0.03, 3)
_GPUS = Effort(1e-3, 15, 0.15)  # a round of a few launches would be shorter than what comes before its first


def full(device: str) -> Effort:
    """What one cell may take where there is time."""
    return _GPUS if device == "cuda" else FULL


class Clock:
    """Times so many runs: on the processor's clock, or by events in the GPU's stream."""

    def __init__(self, device: str):
        if device == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("tune: a CUDA graph is being captured, in which nothing can be timed")
        self._gpu = device == "cuda"

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """What one of them takes."""
        if not self._gpu:
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            return (time.perf_counter() - start) / repeats
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begun = time.perf_counter()
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        queued = time.perf_counter() - begun
        end.synchronize()
        return max(queued, start.elapsed_time(end) / 1e3) / repeats  # the longer of what host and device take


def graph_of(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """The call, captured after a few runs, in which whatever allocates, tunes or compiles may do so."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def interval(ratios: Sequence[float]) -> Ratio:
    """The median and its interval, between two of the values: by the binomial distribution, as the sign test."""
    values, count = sorted(ratios), len(ratios)
    outside, share, rank = 0.0, 0.5**count, 0
    while outside + 2 * share <= 0.05 and 2 * rank + 2 < count:  # the next value in from either end
        outside += 2 * share
        rank += 1
        share = share * (count - rank + 1) / rank
    rank = max(rank - 1, 0)
    return Ratio(statistics.median(values), values[rank], values[count - 1 - rank])


@contextlib.contextmanager
def fastest_library(device: str) -> Iterator[None]:
    """Within the block cuDNN measures its algorithms, as programs have it do that care for speed: stock at its best."""
    if device != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def collected() -> Iterator[None]:
    """The garbage collector runs before what is timed, not in the midst of it."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


Timed = Callable[[Clock, int], float]  # seconds of one of so many runs


def race(stock: Timed, others: Mapping[int, Timed], clock: Clock, effort: Effort) -> tuple[float, dict[int, Ratio]]:
    """Seconds of a run of `stock`, and how many times faster each of the others is.

    All take turns, so that whatever the machine does meanwhile hits all alike. A route drops out once its answer is
    clear; it ends when all have, the rounds are over or the time is. A route that takes several times as long as stock
    at first does not take part.
    """
    warm = {route: min(run(clock, 1) for _ in range(2)) for route, run in others.items()}
    once = max(*(stock(clock, 1) for _ in range(2)), 1e-7)
    found = {route: Ratio(*[once / t] * 3) for route, t in warm.items() if t > HOPELESS * once}
    entered = [route for route in others if route not in found]
    runs = [stock, *(others[route] for route in entered)]
    repeats = [max(1, int(effort.round / max(t, 1e-7))) for t in (once, *(warm[route] for route in entered))]
    taken: list[list[float]] = [[] for _ in runs]
    running, end = set(range(len(runs))), time.perf_counter() + effort.seconds
    for turn in range(effort.rounds if entered else 1):
        for i in sorted(running, reverse=turn % 2 == 1):
            taken[i].append(runs[i](clock, repeats[i]))
        if turn + 1 >= FEWEST:
            running -= {i for i in running - {0} if _is_clear(_ratio(taken[0], taken[i]))}
            if running <= {0} or time.perf_counter() > end:
                break
    found |= {route: _ratio(taken[0], times) for route, times in zip(entered, taken[1:])}
    return statistics.median(taken[0]), {route: found[route] for route in others}


def _ratio(stock: list[float], other: list[float]) -> Ratio:
    """Over the rounds that both were in."""
    return interval([a / b for a, b in zip(stock, other)])


def _is_clear(ratio: Ratio) -> bool:
    return ratio.low > EARLY or ratio.high < 1 / EARLY


def winner(stock: int, samples: Sequence[Mapping[int, Ratio]]) -> int:
    """The fastest of the routes that were slower than stock in no sample, and in all together faster by the margin
    beyond the noise; else `stock`.
    """
    best, route = 1.0, stock
    for candidate in samples[0] if samples else ():
        ratio = pooled([sample[candidate] for sample in samples])
        if ratio.low > MARGIN and ratio.value > best and all(sample[candidate].value >= 1 for sample in samples):
            best, route = ratio.value, candidate
    return route


def pooled(ratios: Sequence[Ratio]) -> Ratio:
    """Of several samples, each weighted by the inverse of its variance, as for logarithms that are normal."""
    errors = [max(math.log(ratio.high / ratio.low) / 2 / _NORMAL, 1e-4) for ratio in ratios]
    total = sum(error**-2 for error in errors)
    mean = sum(math.log(ratio.value) / error**2 for ratio, error in zip(ratios, errors)) / total
    half = _NORMAL / math.sqrt(total)
    return Ratio(*map(math.exp, (mean, mean - half, mean + half)))


_NORMAL = 1.96  # standard errors on either side of the mean hold 95 %
