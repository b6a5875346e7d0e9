"""Runs on disk: pytest-benchmark's JSON with our rows in `extra_info`, one line per row for readable diffs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .clock import BOTH

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench/results"  # the committed reference runs
FRESH = ROOT / "build/bench"  # what `python -m bench` writes
STEP = "step"


@dataclass(frozen=True)
class Run:
    """One run: its name, the environment, the roof and the rows."""

    name: str
    environment: dict[str, str]
    roof: dict[str, Any]
    rows: list[dict[str, Any]]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] == kind]


def load(path: Path) -> Run:
    """Reads a run, fresh or committed.

    Raises:
        SystemExit: there is no such file, or it holds no rows.
    """
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise SystemExit(f"{path}: no such run; `make bench` measures") from None
    rows = [entry["extra_info"] for entry in data["benchmarks"] if "providers" in entry["extra_info"]]
    if not rows:
        raise SystemExit(f"{path}: holds no rows: was the run interrupted?")
    environment = {**data["machine_info"], **{f"commit {k}": v for k, v in data["commit_info"].items()}}
    return Run(path.stem, environment, data["roof"], rows)


def save(source: Path, target: Path) -> None:
    """Copies a run, one line per row, without pytest-benchmark's own statistics of the rounds."""
    data = json.loads(source.read_text())
    entries = [{**e, "stats": {k: e["stats"][k] for k in ("median", "rounds")}} for e in data.pop("benchmarks")]
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target, data, "benchmarks", entries)


def write(target: Path, head: dict[str, Any], key: str, entries: list[dict[str, Any]]) -> None:
    """JSON whose list `key` has one line per entry; written whole or not at all, even if the process is killed."""
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    part = target.with_name(f"{target.name}.part")
    part.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "{key}": [\n{lines}\n]\n}}\n')
    part.replace(target)


def find(names: list[str]) -> list[Path]:
    """Runs by path or by name; without names the fresh ones, or else the committed ones."""
    if names:
        return [_find(name) for name in names]
    return sorted(FRESH.glob("*.json")) or sorted(RESULTS.glob("*.json"))


def _find(name: str) -> Path:
    places = [Path(name), FRESH / f"{name}.json", RESULTS / f"{name}.json"]
    return next((path for path in places if path.is_file()), places[0])


def whole(row: dict[str, Any]) -> str:
    """The mode that represents the row: forward and backward, or the step."""
    return BOTH if row["kind"] == "op" else STEP


def figures(row: dict[str, Any], provider: str, mode: str | None = None) -> dict[str, float] | None:
    """Time, ratio, interval and share of the roof; None if that provider was not measured in that mode."""
    return row["providers"].get(provider, {"modes": {}})["modes"].get(mode or whole(row))


def label(row: dict[str, Any]) -> str:
    """op, size, and dtype and memory format where they are not the usual ones."""
    unusual = [row["dtype"]] if row["dtype"] != "float32" else []
    unusual += [row["layout"]] if row["layout"] != "contiguous" else []
    return " ".join([row["op"], row["size"], *unusual])
