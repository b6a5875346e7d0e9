"""Times contenders round by round, in turn, in one process: disturbances affect all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

import torchext
from torchext.tuning.clock import graph_of

from . import stats

WARM_ROUNDS = 2
ROUNDS = 7, 31  # fewest: an interval is still meaningful; most: the interval hardly narrows beyond
BOTH = "forward+backward"


@dataclass
class Contender:
    """One provider of a row: `phases` run one after the other, each on the last one's result, each timed separately."""

    phases: dict[str, Callable]
    backend: str = "auto"

    def run(self) -> None:
        state = None
        for phase in self.phases.values():
            state = phase(state)


class Clock:
    """Marks points in time: on the processor's clock, or by events in the GPU's stream, read once a round has ended."""

    def __init__(self, device: str):
        self.gpu = device == "cuda"

    def mark(self):
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def finish(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, start, end) -> float:
        return start.elapsed_time(end) / 1e3 if self.gpu else end - start


def sample(clock: Clock, contender: Contender, repeats: int) -> dict[str, float]:
    """Median seconds of each phase over `repeats` runs. A phase frees its argument before its end is marked."""
    phases = contender.phases.values()
    marks = []
    with torchext.backend(contender.backend):
        clock.finish()
        for _ in range(repeats):
            state = None
            points = [clock.mark()]
            for phase in phases:
                state = phase(state)
                points.append(clock.mark())
            marks.append(points)
        clock.finish()
    median = lambda i, j: statistics.median(clock.seconds(points[i], points[j]) for points in marks)
    spent = {name: median(i, i + 1) for i, name in enumerate(contender.phases)}
    return spent | {BOTH: median(0, 2)} if len(spent) == 2 else spent


@dataclass
class Race:
    """Rounds of all contenders, sized so that the row takes about `seconds`."""

    contenders: dict[str, Contender]
    clock: Clock
    seconds: float
    turn: int = 0
    samples: dict[str, list[dict[str, float]]] = field(init=False)

    def __post_init__(self):
        self.samples = {name: [] for name in self.contenders}
        once = {name: self._once(contender) for name, contender in self.contenders.items()}
        fewest, most = ROUNDS
        self.rounds = min(most, max(fewest, int(self.seconds / sum(once.values()))))
        share = self.seconds / (self.rounds + WARM_ROUNDS) / len(once)
        self.repeats = {name: max(1, int(share / once[name])) for name in once}

    def _once(self, contender: Contender) -> float:
        """Roughly the seconds of one warm run."""
        sample(self.clock, contender, 1)
        spent = sample(self.clock, contender, 1)
        return max(spent.get(BOTH) or sum(spent.values()), 1e-6)

    def round(self) -> None:
        for name in stats.order(list(self.contenders), self.turn):
            self.samples[name].append(sample(self.clock, self.contenders[name], self.repeats[name]))
        self.turn += 1

    def times(self, name: str) -> dict[str, list[float]]:
        """Seconds per mode and round, the warm-up's left out."""
        kept = self.samples[name][WARM_ROUNDS:] or self.samples[name]
        return {mode: [one[mode] for one in kept] for mode in kept[0]}


def differentiate(function: Callable, tensors: list[torch.Tensor], dy: torch.Tensor | None) -> Contender:
    """Forward, then backward to every tensor that requires a gradient; the gradients are dropped."""
    leaves = [t for t in tensors if t.requires_grad]
    return Contender(
        {"forward": lambda _: function(*tensors), "backward": lambda y: drop(torch.autograd.grad(y, leaves, dy))}
    )


def drop(_: object) -> None:
    """Frees a phase's result."""


def captured(run: Callable[[], object], mode: str = BOTH) -> Contender:
    """The same work as a CUDA graph: replayed without Python and without launches of its own."""
    graph = graph_of(run)
    return Contender({mode: lambda _, held=run: graph.replay()})  # held: what the graph reads must stay alive
