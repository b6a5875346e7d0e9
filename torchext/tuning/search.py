"""Finds the route of rows by measuring: a ladder of sizes, at each the samples of the op, all routes beside stock's."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .. import _choice
from .._table import ANY, DIRECT, LIBRARY, NATIVE, ROUTES, TRITON, WINOGRAD, Family, Steps
from .clock import Clock, Effort, Ratio, graph_of, race, winner
from .samples import Calls, When

Rung = Callable[[], Calls]

_LONGEST = 0.003  # seconds of one call from which larger ones are not tried


class Unmeasurable(Exception):
    """No kernel of ours serves the call, or another row decides on it."""


class CaptureFailed(Exception):
    """A call failed while it was captured, after which torch's generators and streams of this process are of no use."""


@dataclass
class Cell:
    """What was measured of one row at one size: of each sample how many times faster than stock each route is."""

    family: Family
    row: int
    size: int
    route: int
    seconds: float
    samples: list[dict[int, Ratio]] = field(default_factory=list)

    def __str__(self) -> str:
        ratios = [(ROUTES[route], ratio) for sample in self.samples for route, ratio in sample.items()]
        found = (f"{name} {ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})" for name, ratio in ratios)
        return f"{self.family.op} {self.size} {self.family.by(self.family.when(self.row))}: {', '.join(found)}"


def candidates(family: Family, row: int) -> list[int]:
    """The routes that calls of this row can have beside the first, stock's."""
    others = list(family.routes[1:])
    when = family.when(row)
    if "serving" in when:  # a GPU's tensors are served by one of the two
        others.remove(TRITON if when["serving"] == "native" else NATIVE)
        if when.get("relu") == "no":  # its library's product is stock's
            others.remove(LIBRARY)
    if WINOGRAD in others:
        winograds = when["channels"].startswith("Winograd's")
        others.remove(DIRECT if winograds else WINOGRAD)
    return others


def placed(family: Family, call: Callable[[], object]) -> tuple[int, int]:
    """The row that decides on a call, and its size there.

    Raises:
        Unmeasurable: none of this family does.
    """
    for route in family.routes[1:]:
        with family.forced(route), _choice.record_routes() as choices:
            call()
        found = [choice.decided[1:] for choice in choices if choice.decided is not None and choice.decided[0] is family]
        if found and found[0][0] is not None:
            return found[0]
    raise Unmeasurable("; ".join(f"{choice.op}: {choice.why or choice.row}" for choice in choices))


def measure(
    family: Family, calls: Sequence[Callable[[], object]], clock: Clock, effort: Effort, captured: bool = False
) -> Cell:
    """Times samples of one row and about one size; on a GPU as they are, or captured in a CUDA graph."""
    places, usable = [], []
    for call in calls:
        try:
            places.append(placed(family, call))
        except Unmeasurable:
            continue
        usable.append(call)
    if not places:
        raise Unmeasurable("no sample")
    row = places[0][0]
    if any(place[0] != row for place in places):
        raise Unmeasurable(f"samples of rows {sorted({place[0] for place in places})}")
    cell = Cell(family, row + captured, max(size for _, size in places), family.routes[0], 0.0)
    others = candidates(family, row)
    within = functools.partial(_replayed if captured else _timed, family)
    for call in usable:
        seconds, ratios = race(within(family.routes[0], call), {r: within(r, call) for r in others}, clock, effort)
        cell.seconds = max(cell.seconds, seconds)
        cell.samples.append(ratios)
    cell.route = winner(family.routes[0], cell.samples)
    return cell


def _timed(family: Family, route: int, call: Callable[[], object]) -> Callable[[Clock, int], float]:
    def seconds(clock: Clock, repeats: int) -> float:
        with family.forced(route):
            return clock.seconds(call, repeats)

    return seconds


def _replayed(family: Family, route: int, call: Callable[[], object]) -> Callable[[Clock, int], float]:
    with family.forced(route):
        graph = graph_of(call)
    return lambda clock, repeats: clock.seconds(graph.replay, repeats)


def climb(family: Family, when: When, ladder: Sequence[Rung], clock: Clock, effort: Effort) -> list[Cell]:
    """The cells of a row: sizes a stride apart, a third of it where calls grow long, up to those that take too long;
    then by halves between two that disagree.
    """
    cells: dict[int, Cell] = {}

    def measured(index: int) -> Cell | None:
        cell = _cell(family, when, ladder[index], clock, effort)
        if cell is not None:
            cells[index] = cell
        return cell

    index = 0
    while index < len(ladder):
        cell = measured(index)
        if cell is not None and cell.seconds > _LONGEST:
            break
        index += effort.stride if cell is None or cell.seconds < _LONGEST / 32 else effort.stride // 3
    pairs = list(zip(sorted(cells), sorted(cells)[1:]))
    while pairs:
        below, above = pairs.pop()
        middle = (below + above) // 2
        if middle > below and cells[below].route != cells[above].route and measured(middle) is not None:
            pairs += (below, middle), (middle, above)
    return [cells[index] for index in sorted(cells)]


def _cell(family: Family, when: When, rung: Rung, clock: Clock, effort: Effort) -> Cell | None:
    try:
        cell = measure(family, rung(), clock, effort, when.get("captured") == "yes")
    except (Unmeasurable, torch.OutOfMemoryError):
        return None
    except RuntimeError as error:  # a kernel that fails here; the rest of the table is worth having
        told = f"tune: {family.op} {when} could not be measured: {error}"
        if when.get("captured") == "yes":
            raise CaptureFailed(told) from error
        warnings.warn(told, stacklevel=2)
        return None
    if cell.row != family.row(**when):
        raise AssertionError(f"a sample of {when} is of the row {family.when(cell.row)}")
    return cell


def steps_of(cells: Sequence[Cell], first: int) -> Steps:
    """The row's steps: each route as far as it was measured to win, `first` between sizes that disagree."""
    found: list[tuple[int, int]] = []
    ordered = sorted(cells, key=lambda cell: cell.size)
    for below, cell in itertools.pairwise(ordered):
        if cell.route == first and _is_tie(cell, below.route):
            cell.route = below.route
    for cell, following in zip(ordered, [*ordered[1:], None]):
        if following is None:
            found.append((ANY, cell.route))
        elif following.route != cell.route:
            if cell.route == first:
                found.append((following.size - 1, first))
            else:
                found.append((cell.size, cell.route))
                if following.route != first and following.size - 1 > cell.size:
                    found.append((following.size - 1, first))
    return _merged(found)


def _is_tie(cell: Cell, route: int) -> bool:
    """Whether `route`, which won right below, was slower in no sample: noise alone, then, hides that it still wins."""
    return bool(cell.samples) and all(route in sample and sample[route].value >= 1 for sample in cell.samples)


def with_larger(steps: Steps, measured: int, before: Steps) -> Steps:
    """The same steps; above the largest size measured as `before` goes on, if up to there it came to the same route."""
    larger = [step for step in before if step[0] >= measured]
    return _merged([*steps[:-1], *larger]) if larger[0][1] == steps[-1][1] else steps


def _merged(steps: Sequence[tuple[int, int]]) -> Steps:
    """Without steps that the next one's route continues."""
    kept = [step for step, following in zip(steps, [*steps[1:], (ANY, -1)]) if step[1] != following[1]]
    return tuple(kept)


def put(steps: Steps, low: int, high: int, route: int) -> Steps:
    """The same steps, with this route for sizes above `low` up to `high`."""
    found: list[tuple[int, int]] = []
    start = 0
    for most, other in steps:
        if start < min(most, low):
            found.append((min(most, low), other))
        if most >= high >= start and (not found or found[-1][0] < high):
            found.append((high, route))
        if most > high:
            found.append((most, other))
        start = most
    return _merged(found)
