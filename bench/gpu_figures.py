"""The picture of a GPU's run: how many times faster than stock on the device, over the size, one panel per op."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from .figures import SLOWER, STYLE
from .gpu_run import AUTO, LIBRARY, NATIVE, TRITON, WHOLE, GpuRun, ratio

COLOURS = {NATIVE: "#2a6f97", TRITON: "#e09f3e", LIBRARY: "#6a994e"}
MARKS = {"float32": "o", "bfloat16": "D"}
STREAMS = "cross_entropy", "max_pool2d", "dropout"  # the other ops multiply
DOT = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5}
RING = {"marker": "o", "color": "0.15", "markersize": 8, "markerfacecolor": "none", "markeredgewidth": 0.9}
TICKS = 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50
ACROSS = 4


def size(row: dict[str, Any]) -> int:
    """Elements of the input where an op only streams; else multiply-adds, whose window's side comes last in `shape`."""
    return math.prod(row["shape"]) * (row["shape"][-1] if row["op"].startswith("conv2d") else 1)


def places(rows: list[dict[str, Any]]) -> list[float]:
    """The sizes; rows of equal size, in other dtypes, memory formats or options, side by side around it."""
    sizes = [size(row) for row in rows]
    step, seen = (max(sizes) / min(sizes)) ** 0.022, Counter()
    found = []
    for one in sizes:
        found.append(one * step ** (seen[one] - (sizes.count(one) - 1) / 2))
        seen[one] += 1
    return found


def panel(axis, op: str, rows: list[dict[str, Any]]) -> list[float]:
    """A point per row and provider, joined within a row; a ring around what "auto" takes."""
    seen = []
    rows = sorted(rows, key=lambda row: [row[key] for key in ("dtype", "layout", "size")])
    for row, x in zip(rows, places(rows)):
        found = {name: ratio(row, name, WHOLE, "device") for name in (*COLOURS, AUTO)}
        values = {name: value for name, value in found.items() if value is not None}
        seen += values.values()
        if len(values) > 1:
            axis.plot([x] * 2, [min(values.values()), max(values.values())], color="0.8", linewidth=1, zorder=1)
        for name, value in values.items():
            if name == AUTO:
                axis.plot(x, value, **RING, zorder=4)
            else:
                axis.plot(x, value, MARKS.get(row["dtype"], "s"), color=COLOURS[name], **DOT, zorder=3)
    axis.set_title(op)
    axis.set(xscale="log", xlabel="elements" if op in STREAMS else "multiply-adds")
    axis.margins(x=0.08)
    return seen


def scales(axis, low: float, high: float) -> None:
    """Ratios and sizes in plain numbers; 1 is the line between faster and slower."""
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    axis.yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axis.yaxis.set_minor_locator(NullLocator())
    first, last = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(10, subs=(1,) if last > 30 * first else (1, 2, 5), numticks=6))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(True)
    axis.axhspan(low, 1, color=SLOWER, alpha=0.06, linewidth=0, zorder=0)
    axis.axhline(1, color="0.2", linewidth=1, zorder=2)


def plain(value: float) -> str:
    """A count, with letters for thousands."""
    power = max(0, min(4, int(math.log10(value) + 1e-9) // 3))
    return f"{value / 1000**power:g}{' kMGT'[power].strip()}"


def handles(run: GpuRun) -> list:
    """The legend's handles: provider, dtype, and what "auto" takes if that was measured."""
    point = lambda label, **style: plt.Line2D([], [], linestyle="none", label=label, **style)
    found = [point(name, marker="o", color=colour) for name, colour in COLOURS.items()]
    found += [point('"auto", the default', **RING)] if any(AUTO in row for row in run.rows) else []
    found += [point(dtype, marker=mark, color="0.6") for dtype, mark in MARKS.items()]
    found.append(plt.Line2D([], [], color="0.2", linewidth=1, label="stock"))
    return [*found, plt.Rectangle((0, 0), 1, 1, color=SLOWER, alpha=0.15, linewidth=0, label="slower than stock")]


def draw(run: GpuRun, folder: Path) -> Path:
    """Writes the picture."""
    names = list(dict.fromkeys(row["op"] for row in run.rows))
    down = -(-len(names) // ACROSS)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(down, ACROSS, figsize=(3.4 * ACROSS, 1 + 3 * down), squeeze=False, sharey=True)
        seen = [1.0]
        for axis, op in zip(panels.flat, names):
            seen += panel(axis, op, [row for row in run.rows if row["op"] == op])
        for axis in panels.flat[: len(names)]:
            scales(axis, min(seen) / 1.3, max(seen) * 1.3)
        for axis in panels.flat[len(names) :]:
            axis.set_axis_off()
        for axis in panels[:, 0]:
            axis.set_ylabel("times faster than stock")
        figure.legend(handles=handles(run), loc="outside lower center", ncols=7, frameon=False)
        figure.suptitle(f"Ratio to stock on the device, forward + backward: {run.environment['device']}")
        path = folder / f"{run.name}-ratios.png"
        figure.savefig(path)
        plt.close(figure)
    return path
