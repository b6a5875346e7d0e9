"""Keeps runs in bench/results/ and writes the README's table from the reference run."""

from __future__ import annotations

import json
from pathlib import Path

from .harness import HEADER, Result, Row, line

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
REFERENCE = "cpu-1-thread"  # the run the README shows
BEGIN, END = "<!-- table: python -m bench --save cpu-1-thread -->", "<!-- end of table -->"


def save(name: str, environment: dict[str, str], results: list[Result]) -> None:
    rows = [
        {
            "op": r.row.op, "shape": r.row.shape, "target": r.row.target,
            "stock_us": round(r.stock_us, 2), "torchext_us": round(r.ours_us, 2),
            "ratio": round(r.ratio, 3), "low": round(r.low, 3), "high": round(r.high, 3),
        }
        for r in results
    ]  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")


def load(name: str) -> tuple[dict[str, str], list[Result]]:
    data = json.loads((RESULTS / f"{name}.json").read_text())
    results = [
        Result(
            Row(r["op"], r["shape"], None, None, r["target"]),
            *(r[k] for k in ("stock_us", "torchext_us", "ratio", "low", "high")),
        )
        for r in data["rows"]
    ]
    return data["environment"], results


def markdown(name: str) -> str:
    environment, results = load(name)
    where = "; ".join(f"{key} {value}" for key, value in environment.items())
    return "\n".join([f"Measured: {where}.", "", HEADER, *(line(r) for r in results)])


def write_readme() -> None:
    """Replaces the table between the README's two markers by the reference run's."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{markdown(REFERENCE)}\n{END}{after}")
