"""The pictures of a run: ratios with their intervals, networks, the roof, scaling with size, memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from . import table
from .harness import COMPILED, FUSED, OURS, STOCK
from .results import Run, figures, label

COLOURS = {STOCK: "0.6", OURS: "#2a6f97", COMPILED: "#e09f3e", FUSED: "#6a994e"}
SLOWER = "#bc4749"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "savefig.dpi": 120,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,
}
PLAIN = {"dtype": "float32", "layout": "contiguous"}


def times_axis(axis, low: float, high: float) -> None:
    """A logarithmic axis of ratios, in plain numbers, with a line at 1 between faster and slower."""
    axis.set_xscale("log")
    axis.set_xlim(min(0.5, low * 0.8), high * 1.6)
    axis.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.grid(True)
    axis.axvline(1, color="0.2", linewidth=1)


def ratios(rows: list[dict[str, Any]], title: str, others: tuple[str, ...]):
    """One bar per row, from 1 to the ratio, with its interval; the other providers as marks; losses in red."""
    figure, axis = plt.subplots(figsize=(9, 1.3 + 0.235 * len(rows)))
    entries = [figures(row, OURS) for row in rows]
    colours = [SLOWER if e["high"] < 1 else COLOURS[OURS] for e in entries]
    at = range(len(rows))
    axis.barh(at, [e["ratio"] - 1 for e in entries], left=1, height=0.62, color=colours)
    spread = [[e["ratio"] - e["low"] for e in entries], [e["high"] - e["ratio"] for e in entries]]
    axis.errorbar([e["ratio"] for e in entries], at, xerr=spread, fmt="none", ecolor="0.15", elinewidth=1, capsize=2)
    for name, marker in zip(others, "D^"):
        points = [(e["ratio"], i) for i, row in enumerate(rows) if (e := figures(row, name))]
        if points:
            axis.plot(*zip(*points), marker, color=COLOURS[name], markersize=6, label=name, markeredgecolor="white")
    for i, (row, e) in enumerate(zip(rows, entries)):
        marks = [other["ratio"] for name in others if (other := figures(row, name))]
        axis.annotate(f"{e['ratio']:.2f}x", (max(e["high"], 1, *marks), i), xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize=8, color=colours[i])  # fmt: skip
        if i and row["op"] != rows[i - 1]["op"]:
            axis.axhline(i - 0.5, color="0.85", linewidth=0.8)
    axis.set_yticks(list(at), [label(row) for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    times_axis(axis, min(e["low"] for e in entries), max(e["high"] for e in entries))
    axis.barh([0], [0], color=COLOURS[OURS], label=OURS)
    axis.barh([0], [0], color=SLOWER, label=f"{OURS}, slower than stock")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    axis.set(xlabel="times faster than stock eager (95 % interval of the median)", title=title)
    return figure


def decades(axis, unit_x: Callable, unit_y: Callable, *, x: str, y: str) -> None:
    """Both axes logarithmic, their ticks in units."""
    axis.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    for one, unit in ((axis.xaxis, unit_x), (axis.yaxis, unit_y)):
        low, high = one.get_view_interval()
        wide = high > 30 * low  # otherwise one power of ten, or none, would be labelled
        one.set_major_locator(LogLocator(10, subs=(1,) if wide else (1, 2, 5), numticks=6))
        one.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: unit(value)))
        one.set_minor_formatter(NullFormatter())
    axis.grid(True)


def roofline(run: Run):
    """Products against arithmetic and bandwidth; streaming ops against a copy of as many bytes."""
    figure, (products, streams) = plt.subplots(1, 2, figsize=(12, 5))
    rows = run.of_kind("op")
    computing = [row for row in rows if whole_floor(row)["flops"] and row["dtype"] == "float32"]
    moving = [row for row in rows if not whole_floor(row)["flops"]]
    _points(products, computing, lambda f: f["flops"] / f["bytes"], lambda f, us: f["flops"] / us / 1e3)
    _points(streams, moving, lambda f: f["bytes"], lambda f, us: f["bytes"] / us / 1e3)
    peak, copy = run.roof["gemm"]["float32"] / 1e9, max(rate for _, rate in run.roof["copy"]) / 1e9
    x = [0.5, peak / copy, 2000]
    products.plot(x, [min(peak, copy * i) for i in x], color="0.15", label="roof: copy, then matrix product")
    streams.plot(*zip(*[(size, rate / 1e9) for size, rate in run.roof["copy"]]), color="0.15", label="roof: a copy")
    decades(products, lambda v: f"{v:g}", lambda v: f"{v:g}", x="operations per byte of the floor", y="GFLOP/s")
    decades(streams, table.amount, lambda v: f"{v:g}", x="bytes of the floor", y="GB/s of the floor")
    products.set_title("Products: linear and convolution, float32")
    streams.set_title("Streams: cross-entropy, pooling, dropout")
    for axis in (products, streams):
        axis.legend(loc="lower right", frameon=True, framealpha=0.9, fontsize=8)
    figure.suptitle(f"Against the roof measured in the same run, forward + backward ({run.name})")
    return figure


def whole_floor(row: dict[str, Any]) -> dict[str, float]:
    return row["floor"]["forward+backward"]


def _points(axis, rows, x: Callable, y: Callable) -> None:
    """Stock and ours of each row, joined by a line that shows the gain."""
    for row in rows:
        floor = whole_floor(row)
        pair = [y(floor, figures(row, name)["us"]) for name in (STOCK, OURS)]
        axis.plot([x(floor)] * 2, pair, color="0.8", linewidth=1, zorder=1)
    for name, size in ((STOCK, 22), (OURS, 26)):
        where = [(x(whole_floor(row)), y(whole_floor(row), figures(row, name)["us"])) for row in rows]
        if where:
            axis.scatter(*zip(*where), s=size, color=COLOURS[name], label=name, zorder=2)


def scaling(run: Run):
    """Time over the least time the roof allows, which grows with the size; one panel per op, float32, contiguous."""
    rows = [row for row in run.of_kind("op") if all(row[key] == value for key, value in PLAIN.items())]
    ops = [op for op in dict.fromkeys(row["op"] for row in rows) if sum(row["op"] == op for row in rows) > 1]
    down = max(1, -(-len(ops) // 3))
    figure, panels = plt.subplots(down, 3, figsize=(12, 0.8 + 3.2 * down), squeeze=False)
    for axis, op in zip(panels.flat, ops):
        same = sorted((row for row in rows if row["op"] == op), key=at_the_roof)
        for name, mark in ((STOCK, "o-"), (OURS, "o-"), (COMPILED, "D")):
            points = [(at_the_roof(row), e["us"]) for row in same if (e := figures(row, name))]
            if points:
                axis.plot(*zip(*points), mark, color=COLOURS[name], markersize=4)
        ends = [at_the_roof(same[0]), at_the_roof(same[-1])]
        axis.plot(ends, ends, color="0.15", linewidth=1)
        decades(axis, table.microseconds, table.microseconds, x="time at the roof", y="")
        axis.set_title(op)
    for axis in panels.flat[len(ops) :]:
        axis.set_axis_off()
    handles = [plt.Line2D([], [], color=COLOURS[n], marker="o", label=n) for n in (STOCK, OURS, COMPILED)]
    handles.append(plt.Line2D([], [], color="0.15", label="the roof"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"Time over size, forward + backward, float32 ({run.name})")
    return figure


def at_the_roof(row: dict[str, Any]) -> float:
    entry = figures(row, STOCK)
    return max(entry["roof"] * entry["us"], 1e-3)


def memory(run: Run):
    """Saved and peak bytes in the typical rows."""
    rows = [row for row in run.rows if row["typical"]]
    figure, panels = plt.subplots(1, 2, figsize=(12, 1.5 + 0.3 * len(rows)), sharey=True)
    columns = (("saved_bytes", "kept for backward, beyond inputs and result"), ("peak_bytes", "most alive at once"))
    for axis, (key, title) in zip(panels, columns):
        for name, height in ((STOCK, -0.18), (OURS, 0.18)):
            sizes = [row["providers"][name][key] for row in rows]
            axis.barh([i + height for i in range(len(rows))], sizes, height=0.34, color=COLOURS[name], label=name)
            for i, size in enumerate(sizes):
                axis.annotate(table.amount(size), (max(size, 1), i + height), xytext=(3, 0), va="center", fontsize=7,
                              textcoords="offset points", color="0.3")  # fmt: skip
        axis.set_xscale("log")
        axis.set_xlim(1, 12 * max(max(row["providers"][name][key] for row in rows) for name in (STOCK, OURS)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: table.amount(value)))
        axis.xaxis.grid(True)
        axis.set_title(title)
    panels[0].set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=8)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(f"Memory at the typical sizes, bytes of tensors ({run.name})")
    return figure


def draw(run: Run, folder: Path) -> list[Path]:
    """Writes the pictures that the run has rows for."""
    ops, networks = run.of_kind("op"), run.of_kind("network")
    where = f"{run.environment['device']}, {table.threads(run)}"
    made = {}
    with plt.rc_context(STYLE):
        if networks:
            kinds = (COMPILED, FUSED)
            made["networks"] = ratios(networks, f"Whole training steps, float32: {where}", kinds)
        if ops:
            made["ops"] = ratios(ops, f"Ops, forward + backward: {where}", (COMPILED,))
            made["roofline"], made["scaling"] = roofline(run), scaling(run)
        if any(row["typical"] for row in run.rows):
            made["memory"] = memory(run)
        paths = []
        for name, figure in made.items():
            paths.append(folder / f"{run.name}-{name}.png")
            figure.savefig(paths[-1])
            plt.close(figure)
    return paths
