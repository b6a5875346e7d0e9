"""Two runs side by side, row by row: what became slower against stock by more than its intervals explain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import table
from .harness import OURS
from .results import Run, figures, label

TOLERATED = 0.05  # a ratio this much lower is not called a regression, however narrow the intervals


@dataclass(frozen=True)
class Change:
    """One row and mode in both runs, as ratios to stock: what slows both sides cancels."""

    name: str
    mode: str
    before: dict[str, float]
    after: dict[str, float]

    @property
    def factor(self) -> float:
        return self.after["ratio"] / self.before["ratio"]

    @property
    def regressed(self) -> bool:
        return self.after["high"] < self.before["low"] and self.factor < 1 - TOLERATED

    @property
    def improved(self) -> bool:
        return self.after["low"] > self.before["high"] and self.factor > 1 + TOLERATED


def changes(before: Run, after: Run) -> list[Change]:
    """The changes of every row and mode that both runs have, the worst first."""
    old = {label(row): row for row in before.rows}
    pairs = [(old[label(row)], row) for row in after.rows if label(row) in old]
    return sorted((change for pair in pairs for change in _changes(*pair)), key=lambda change: change.factor)


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Iterable[Change]:
    for mode in new["providers"][OURS]["modes"]:
        was = figures(old, OURS, mode)
        if was is not None:
            yield Change(label(new), mode, was, figures(new, OURS, mode))


def missing(before: Run, after: Run) -> list[str]:
    """Rows that the second run lacks."""
    there = {label(row) for row in after.rows}
    return [name for name in map(label, before.rows) if name not in there]


def report(before: Run, after: Run) -> tuple[str, bool]:
    """The text, and whether any row regressed."""
    found = changes(before, after)
    regressed = [c for c in found if c.regressed]
    told = [("slower than before", regressed), ("faster than before", [c for c in found if c.improved][::-1])]
    lines = [f"{before.name} -> {after.name}: ratio of torchext to stock, {len(found)} figures compared"]
    lines += [f"differs: {key} {a!r} -> {b!r}" for key, a, b in _environments(before, after)]
    lines += [f"only in the first: {name}" for name in missing(before, after)]
    for title, group in told:
        lines.append(f"{title}: {len(group)}")
        lines += [
            f"  {c.name}, {c.mode}: {table.times(c.before)} -> {table.times(c.after)}, {c.factor:.2f} times"
            for c in group
        ]
    return "\n".join(lines), bool(regressed)


def _environments(before: Run, after: Run) -> Iterable[tuple[str, str, str]]:
    for key in before.environment.keys() | after.environment.keys():
        a, b = (run.environment.get(key, "") for run in (before, after))
        if a != b and key != "date":
            yield key, a, b
