"""What every row has: the race of its contenders, ratios to stock, share of the roof; wrong results are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import torchext
from torchext.tuning.clock import collected

from . import exact, stats
from .clock import Clock, Contender, Race
from .harness import AUTOTUNED, COMPILED, OURS, STOCK
from .roof import Roof, Work


@dataclass(frozen=True)
class Settings:
    """What the command line chose, and the roof."""

    device: str
    seconds: float
    compile: str
    roof: Roof

    def compiled(self, function: Callable, typical: bool) -> dict[str, Callable]:
        """torch.compile's versions: the default, and on a GPU "max-autotune"; none in most rows."""
        if self.compile == "none" or (self.compile == "typical" and not typical):
            return {}
        torch._dynamo.reset()
        made = {COMPILED: torch.compile(function, dynamic=False)}
        if self.device == "cuda":
            made[AUTOTUNED] = torch.compile(function, dynamic=False, mode="max-autotune")
        return made


def route(run: Callable[[], object]) -> str:
    """Which backend "auto" chooses: "native", "stock", or both joined where the call holds several ops."""
    with torchext.record_routes() as choices:
        run()
    return "+".join(sorted({choice.backend for choice in choices})) or "stock"


def times(
    contenders: dict[str, Contender], settings: Settings, run: Callable[[Race], None]
) -> dict[str, dict[str, list[float]]]:
    """Seconds by contender, mode and round."""
    race = Race(contenders, Clock(settings.device), settings.seconds)
    with collected():
        run(race)
    return {name: race.times(name) for name in contenders}


def figures(taken: list[float], stock: list[float]) -> dict[str, float]:
    """Median microseconds and how many times faster than stock, with its interval."""
    ratio = stats.ratio(stock, taken)
    found = {"us": 1e6 * float(np.median(taken)), "ratio": ratio.value, "low": ratio.low, "high": ratio.high}
    return {key: round(value, 3) for key, value in found.items()}


def modes(name: str, taken: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """The figures of every mode the contender has, which depend on whether it has a backward or is a graph."""
    return {mode: figures(seconds, taken[STOCK][mode]) for mode, seconds in taken[name].items()}


def add_roof(found: dict[str, dict[str, float]], work: dict[str, Work], roof: Roof, dtype: str) -> None:
    """Adds to each mode the share of the roof reached: the least time the floor's work can take over the time taken."""
    for mode, entry in found.items():
        entry["roof"] = round(1e6 * roof.seconds(work[mode], dtype) / max(entry["us"], 1e-3), 4)


def refuse_wrong(row: dict[str, Any]) -> None:
    """Raises exact.WrongResult if one of our providers is further from float64 than stock allows it to be."""
    for name, provider in row["providers"].items():
        if name.startswith(OURS) and provider.get("excess", 0) > 1:
            raise exact.WrongResult(
                f"{row['op']} {row['size']}: {name} is {provider['error']:g} roundings from float64, "
                f"stock {provider['stock_error']:g}"
            )
