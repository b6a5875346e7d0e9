"""Tables of GPUs' runs in Markdown: rows.md beside a run, every row and provider; and the README's, one line per op."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import gpu_run, results, stats, table
from .gpu_run import AUTO, KINDS, MODES, WHOLE, GpuRun, is_ours, load, ours, ratio, served
from .harness import OURS, STOCK
from .results import figures, label
from .table import markdown, microseconds

BEGIN, END = "<!-- gpu table: python -m bench keep-gpu -->", "<!-- end of gpu table -->"
CLEAR = 0.95  # rows have no interval: a smaller loss may be noise
ABOUT = (
    "device: time on the GPU alone, of one of several runs in a replayed CUDA graph. call: time of an eager call amid "
    "others, the longer of what Python and launches take on the host and what the GPU takes. In brackets how many "
    "times faster than stock's same figure. forward: nothing wants a gradient. floor: what a copy of as many bytes or "
    "a matrix product of as many operations takes here, timed as the device's times are; a product in TF32 for float32 "
    "convolutions, which cuDNN does in it by default. difference: largest distance from stock's result and gradients, "
    "relative, by the norm. Written by `python -m bench keep-gpu`."
)
NONE = "No run is kept yet."


def slower(value: float) -> bool:
    """Whether it prints below 1.00x."""
    return round(value, 2) < 1


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x{' **slower**' if slower(value) else ''}"


def where(run: GpuRun) -> str:
    return "; ".join(f"{key} {value}" for key, value in run.environment.items() if key != "threads")


def means(run: GpuRun) -> str:
    """Geometric means of every mode and kind of time, and how many rows are slower."""
    parts = []
    for mode, title in MODES.items():
        counted = []
        for kind, how in KINDS.items():
            values = [value for value, _ in ours(run.rows, mode, kind)]
            if values:
                lost, clearly = sum(map(slower, values)), sum(value < CLEAR for value in values)
                rows = f"{lost} of {len(values)} rows slower, {clearly} of them by more than {100 * (1 - CLEAR):.0f} %"
                counted.append(f"{stats.geometric_mean(values):.2f}x {how} ({rows})")
        parts.append(f"{title} {', '.join(counted)}")
    broken = [label(row) for row in run.rows if "failed" in row.get(served(row), {"failed": ""})]
    return "; ".join(parts) + (f"; failed: {', '.join(broken)}" if broken else "")


def who(run: GpuRun) -> str:
    """What "torchext" stands for in the short table."""
    if all(AUTO in row for row in run.rows):
        return (
            'torchext is "auto", what every call takes by default; "taken" counts the rows that are not left to a call '
            "of stock's own, which is at 1x less a microsecond or two of Python, and the noise."
        )
    return 'torchext is, row by row, the one of "native" and "triton" that is faster on the device.'


def ops(run: GpuRun) -> tuple[list[str], list[list[str]]]:
    """One line per op: its middle row, the worst ratio of all, and how many are slower, on the device and per call."""
    header = ["op", "middle row", "stock", "torchext", *(f"faster by, {kind}" for kind in KINDS)]
    header += ["worst row taken, device", "worst row taken, call", "taken", "rows slower by 5 %, device and call"]
    body = []
    for op in dict.fromkeys(row["op"] for row in run.rows):
        rows = [row for row in run.rows if row["op"] == op]
        found = {kind: ours(rows, WHOLE, kind) for kind in KINDS}
        if not found["device"]:
            body.append([op, *[""] * (len(header) - 2), f"none of {len(rows)} measured"])
            continue
        value, row = found["device"][(len(found["device"]) - 1) // 2]
        taken = [microseconds(row[name][f"{WHOLE}_device"]) for name in (STOCK, served(row))]
        cells = [times(value), times(ratio(row, served(row), WHOLE, "call"))]
        worst = [first_of(pairs) for pairs in found.values()]
        lost = [sum(value < CLEAR for value, _ in pairs) for pairs in found.values()]
        counts = f"{sum(map(is_ours, rows))} of {len(rows)}", f"{lost[0]} and {lost[1]}"
        body.append([op, size(row), *taken, *cells, *worst, *counts])
    return header, body


def first_of(pairs: list[tuple[float, dict[str, Any]]]) -> str:
    """The worst row that is not stock's own call."""
    return next((f"{value:.2f}x at {size(row)}" for value, row in pairs if is_ours(row)), "")


def size(row: dict[str, Any]) -> str:
    """The row's label without its op."""
    return label(row).removeprefix(f"{row['op']} ")


def networks(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Whole training steps, eager and replayed from a CUDA graph, each beside stock's."""
    header = ["network", "size", "stock", OURS, "faster by", "stock graphed", f"{OURS} graphed", "faster by, graphed"]
    body = []
    for row in rows:
        stock, eager = figures(row, STOCK), figures(row, OURS)
        graphed = [figures(row, f"{name} graphed") for name in (STOCK, OURS)]
        cells = [microseconds(entry["us"]) if entry else "" for entry in (stock, eager, *graphed)]
        gain = graphed[0]["us"] / graphed[1]["us"] if all(graphed) else None
        body.append([row["op"], row["size"], *cells[:2], table.times(eager), *cells[2:], times(gain)])
    return header, body


def short(run: GpuRun) -> str:
    """The README's part on a run."""
    parts = [f"Measured: {where(run)}. {who(run)}", markdown(*ops(run))]
    typical = [row for row in run.networks if row["typical"]]
    parts += [markdown(*networks(typical))] if typical else []
    return "\n\n".join([*parts, f"Geometric mean over all rows: {means(run)}."])


def long(run: GpuRun) -> str:
    """Every row, provider and mode of a run."""
    parts = [f"# {run.name}", short(run), ABOUT]
    if run.stages:
        told = (f"{name} {'passed' if passed else 'FAILED'}" for name, passed in run.stages.items())
        parts.append(f"Stages of `make gpu`: {', '.join(told)}.")
    parts += ["## Ops", markdown(*every(run))]
    if run.networks:
        parts += ["## Training steps", markdown(*networks(run.networks))]
    return "\n\n".join(parts) + "\n"


def every(run: GpuRun) -> tuple[list[str], list[list[str]]]:
    """A line per row and provider; the floors are in stock's line."""
    timed = [f"{title}, {kind}" for title in MODES.values() for kind in ("floor", *KINDS)]
    return ["row", "provider", *timed, "difference"], [line for row in run.rows for line in lines(row)]


def lines(row: dict[str, Any]) -> Iterable[list[str]]:
    for name in (name for name, entry in row.items() if isinstance(entry, dict) and name != "floor_us"):
        entry, first = row[name], name == STOCK
        title = name if entry.get("route", name) == name else f"{name}: {entry['route']}"
        cells = []
        for mode in MODES:
            cells.append(microseconds(row["floor_us"][mode]) if first else "")
            for kind in KINDS:
                taken, gain = entry.get(f"{mode}_{kind}"), ratio(row, name, mode, kind)
                shown = f" ({times(gain)})" if gain and not first else ""
                cells.append("" if taken is None else microseconds(taken) + shown)
        wrong = next((f"{key}: {entry[key]}" for key in ("failed", "uncaptured") if key in entry), None)
        last = f"{entry['error'] or 0:.0e}" if "error" in entry else ""
        told = last if wrong is None else wrong.split("\n")[0][:80].replace("|", "/")
        yield [label(row) if first else "", title, *cells, "" if first else told]


def readme_table() -> str:
    """What stands between the README's two markers: every kept device."""
    parts = []
    for folder in gpu_run.folders(results.RESULTS):
        path = f"bench/results/{folder.name}/rows.md"
        parts += [short(load(folder)), f"Every row: [{path}]({path})."]
    return "\n\n".join(parts) or NONE


def keep(folder: Path | None) -> None:
    """Keeps the run of `folder`, if any; then writes the tables of all kept runs."""
    if folder is not None:
        gpu_run.keep(folder)
    for kept in gpu_run.folders(results.RESULTS):
        (kept / "rows.md").write_text(long(load(kept)))
    table.put(BEGIN, readme_table(), END)
