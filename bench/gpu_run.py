"""A GPU's run on disk, as `make gpu` leaves it in bench/results/<device>/ or elsewhere, and its ratios to stock.

A run is rows.json (bench/gpu_rows.py); beside it, where those stages ran, summary.json and the networks' cuda.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import gpu, results
from .harness import STOCK

AUTO, NATIVE, TRITON, LIBRARY = "auto", "native", "triton", "library"
MODES = {"forward": "forward", "training": "forward + backward"}
KINDS = {"device": "on the device", "call": "per call"}
WHOLE = "training"  # the mode that represents a row
FIRST = "device", "torch", "triton", "cuda"  # of the environment's entries


@dataclass(frozen=True)
class GpuRun:
    """The folder's name, the environment, the rows of ops and networks, and which stages passed."""

    name: str
    environment: dict[str, str]
    rows: list[dict[str, Any]]
    networks: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, bool] = field(default_factory=dict)


def load(folder: Path) -> GpuRun:
    """Reads a run's folder.

    Raises:
        SystemExit: it has no rows.json, or that holds no rows.
    """
    data = _read(folder / "rows.json")
    if not data.get("rows"):
        raise SystemExit(f"{folder}: no rows of a GPU; `make gpu` measures")
    summary = _read(folder / "summary.json")
    known = {**summary.get("environment", {}), **data["environment"]}
    about = {key: known[key] for key in dict.fromkeys((*FIRST, *data["environment"])) if key in known}
    stages = {name: stage["passed"] for name, stage in summary.get("stages", {}).items()}
    steps = results.load(folder / "cuda.json").of_kind("network") if _whole(folder / "cuda.json") else []
    return GpuRun(folder.name, about, data["rows"], steps, stages)


def _whole(path: Path) -> bool:
    """Whether the run is there and complete; pytest-benchmark leaves an empty file when interrupted."""
    return path.exists() and path.stat().st_size > 0


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def find(names: list[str]) -> tuple[list[Path], list[str]]:
    """Folders of GPU runs among the names, and the other names; without names, the fresh folders, else the kept."""
    if not names:
        return folders(results.FRESH) or folders(results.RESULTS), []
    places = {name: [Path(name), results.FRESH / name, results.RESULTS / name] for name in names}
    found = {name: next((p for p in tried if (p / "rows.json").is_file()), None) for name, tried in places.items()}
    return [path for path in found.values() if path], [name for name, path in found.items() if not path]


def folders(parent: Path) -> list[Path]:
    return [path.parent for path in sorted(parent.glob("*/rows.json"))]


def ratio(row: dict[str, Any], name: str, mode: str, kind: str) -> float | None:
    """How many times faster than stock; None where either figure is missing."""
    taken, stock = (row.get(who, {}).get(f"{mode}_{kind}") for who in (name, STOCK))
    return stock / taken if taken and stock else None


def served(row: dict[str, Any]) -> str:
    """Our provider: "auto", which is what users get; if that was not measured, our fastest on the device."""
    if AUTO in row:
        return AUTO
    return max((NATIVE, TRITON), key=lambda name: ratio(row, name, WHOLE, "device") or 0)


def is_ours(row: dict[str, Any]) -> bool:
    """Whether users get something other than stock's own call."""
    return row[served(row)].get("route") != STOCK


def ours(rows: Iterable[dict[str, Any]], mode: str, kind: str) -> list[tuple[float, dict[str, Any]]]:
    """Our ratio and the row, for all rows that have it, the worst first."""
    found = [(ratio(row, served(row), mode, kind), row) for row in rows]
    return sorted(((value, row) for value, row in found if value is not None), key=lambda pair: pair[0])


def keep(folder: Path) -> None:
    """Copies a run into bench/results/<device>/, one line per row."""
    if _read(folder / "summary.json").get("dry"):
        raise SystemExit(f"{folder}: a dry run on the CPU, no GPU's results")
    run, data = load(folder), _read(folder / "rows.json")
    target = results.RESULTS / gpu.folder(run.environment).name
    target.mkdir(parents=True, exist_ok=True)
    results.write(target / "rows.json", data, "rows", data.pop("rows"))
    if _whole(folder / "cuda.json"):
        results.save(folder / "cuda.json", target / "cuda.json")
    if (folder / "summary.json").exists() and folder.resolve() != target.resolve():
        shutil.copy(folder / "summary.json", target)
