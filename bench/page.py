"""The report: one HTML page with everything in it, and its pictures beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import figures, gpu_figures, gpu_table, results, table
from .gpu_run import GpuRun
from .harness import OURS, STOCK
from .results import Run, label

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em }
h1, h2, h3 { font-weight: 600; line-height: 1.2 } h2 { border-bottom: 1px solid #ccc; margin-top: 2.5em }
img { max-width: 100%; display: block; margin: 1.5em 0 }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums }
td, th { padding: 2px 8px; border-bottom: 1px solid #e5e5e5; text-align: right; white-space: nowrap }
td:first-child, th:first-child, td:nth-child(2) { text-align: left } .wide { overflow-x: auto }
.slower { color: #bc4749; font-weight: 600 } .note { color: #666; font-size: 13px }
"""


def write(runs: list[Run], folder: Path, gpus: Sequence[GpuRun] = ()) -> Path:
    """Draws each run's pictures into `folder` and returns the page."""
    if not runs and not gpus:
        raise SystemExit("no runs: `make bench` measures")
    folder.mkdir(parents=True, exist_ok=True)
    body = "".join(section(run, figures.draw(run, folder)) for run in runs)
    body += "".join(gpu_section(run, gpu_figures.draw(run, folder)) for run in gpus)
    title = "torchext beside stock PyTorch"
    path = folder / "report.html"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{body}</html>\n"
    )
    return path


def section(run: Run, pictures: list[Path]) -> str:
    parts = [f"<h2>{html.escape(run.name)}</h2>", definition(run), f"<p>{html.escape(table.means(run))}.</p>"]
    parts += [losses(run), *map(picture, pictures), "<h3>Every row</h3>"]
    parts.append(f'<p class="note">{html.escape(table.ABOUT)}</p>')
    for kind in ("op", "network"):
        rows = run.of_kind(kind)
        if rows:
            header = ["row", "provider", *table.modes(rows), "error / stock's", "saved", "peak", "roof"]
            parts.append(grid(header, table.lines(rows)))
    return "".join(parts)


def gpu_section(run: GpuRun, ratios: Path) -> str:
    parts = [f"<h2>{html.escape(run.name)}</h2>", definition(run)]
    parts += [f'<p class="note">{html.escape(text)}</p>' for text in (gpu_table.who(run), gpu_table.ABOUT)]
    parts += [f"<p>{html.escape(gpu_table.means(run))}.</p>", grid(*gpu_table.ops(run)), picture(ratios)]
    if run.networks:
        parts += ["<h3>Training steps</h3>", grid(*gpu_table.networks(run.networks))]
    return "".join([*parts, "<h3>Every row</h3>", grid(*gpu_table.every(run))])


def definition(run: Run | GpuRun) -> str:
    """What it was measured on."""
    return grid(["measured on", ""], ([key, value] for key, value in run.environment.items()))


def losses(run: Run) -> str:
    """The rows where stock is faster, by name."""
    lost = []
    for row in run.rows:
        for mode in row["providers"][OURS]["modes"]:
            entry = results.figures(row, OURS, mode)
            if entry["high"] < 1:
                taken = [table.microseconds(results.figures(row, name, mode)["us"]) for name in (STOCK, OURS)]
                lost.append([label(row), mode, *taken, table.times(entry)])
    if not lost:
        return "<h3>No row is slower than stock</h3>"
    header = ["row", "mode", "stock", OURS, "ratio"]
    return f"<h3>Slower than stock: {len(lost)} figures</h3>{grid(header, lost)}"


def picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}">'


def grid(header: list[str], rows: Iterable[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def cell(text: str) -> str:
    """A table's cell; Markdown's bold, used for losses, becomes red."""
    slower = ' class="slower"' if "**" in text else ""
    return f"<td{slower}>{html.escape(text.replace('**', ''))}</td>"
