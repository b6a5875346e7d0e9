"""Tables in Markdown: a line of progress, the long table of a run, and the README's, from the committed runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from . import results, stats
from .harness import COMPILED, FUSED, OURS, STOCK
from .results import Run, figures, label

BEGIN, END = "<!-- table: python -m bench keep -->", "<!-- end of table -->"
README = results.ROOT / "README.md"
REFERENCES = ("cpu-1-thread", "cpu-2-threads")


def microseconds(value: float) -> str:
    """A time in a readable unit: 42 us, not 0.042 ms."""
    return scaled(value, (("s", 1e6), ("ms", 1e3), ("us", 1)))


def scaled(value: float, units: Sequence[tuple[str, float]]) -> str:
    """Three digits in the largest unit that leaves a value of at least 1."""
    unit, size = next(((name, one) for name, one in units if value >= one), units[-1])
    return f"{value / size:.3g} {unit}" if value < 100 * size else f"{value / size:.0f} {unit}"


def times(entry: dict[str, float]) -> str:
    """The ratio, its interval, and the verdict where stock is the faster."""
    slower = " **slower**" if entry["high"] < 1 else ""
    return f"{entry['ratio']:.2f}x ({entry['low']:.2f}-{entry['high']:.2f}){slower}"


def progress(row: dict[str, Any]) -> str:
    """A row's line of progress, printed when it is measured."""
    stock, ours = figures(row, STOCK), figures(row, OURS)
    others = "".join(
        f", {name} {entry['ratio']:.2f}x"
        for name in row["providers"]
        if name not in (STOCK, OURS) and (entry := figures(row, name))
    )
    slower = " slower" if ours["high"] < 1 else ""
    return (
        f"{label(row):62.62} {microseconds(stock['us']):>7} -> {microseconds(ours['us']):>7} "
        f"{ours['ratio']:5.2f}x {ours['low']:.2f}-{ours['high']:.2f}{slower}{others}"
    )


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def where(run: Run) -> str:
    return "; ".join(f"{key} {value}" for key, value in run.environment.items())


def long(run: Run) -> str:
    """Every row, provider and mode of a run."""
    parts = [f"# {run.name}", f"Measured: {where(run)}.", ABOUT]
    for kind, title in (("op", "Ops"), ("network", "Training steps")):
        rows = run.of_kind(kind)
        if rows:
            header = ["row", "provider", *modes(rows), "error / stock's", "saved", "peak", "roof"]
            parts += [f"## {title}", markdown(header, lines(rows))]
    return "\n\n".join(parts) + "\n"


ABOUT = (
    "Times are medians; in brackets how many times faster than stock, with the 95 % interval. error: largest distance "
    "from float64, value and gradients, in roundings of the largest value, beside stock's. saved: bytes that forward "
    "leaves alive beyond inputs and result. peak: most bytes alive at once. roof: share of what this machine's copy or "
    "matrix product of the same size would allow, over the whole row. Written by `python -m bench keep`."
)


def modes(rows: list[dict[str, Any]]) -> list[str]:
    """Modes in the order in which they are measured."""
    return list(dict.fromkeys(mode for row in rows for mode in row["providers"][STOCK]["modes"]))


def lines(rows: list[dict[str, Any]]) -> Iterable[list[str]]:
    wanted = modes(rows)
    for row in rows:
        for name, provider in row["providers"].items():
            yield [label(row) if name == STOCK else "", name, *cells(row, name, wanted), *weighed(row, provider)]


def cells(row: dict[str, Any], name: str, wanted: list[str]) -> Iterable[str]:
    for mode in wanted:
        entry = figures(row, name, mode)
        yield "" if entry is None else microseconds(entry["us"]) + ("" if name == STOCK else f" ({times(entry)})")


def weighed(row: dict[str, Any], provider: dict[str, Any]) -> list[str]:
    error = f"{provider['error']:.2g} / {provider['stock_error']:.2g}" if "error" in provider else ""
    roof = provider["modes"].get(results.whole(row), {}).get("roof")
    return [
        error,
        amount(provider.get("saved_bytes")),
        amount(provider.get("peak_bytes")),
        f"{roof:.0%}" if roof else "",
    ]


def amount(size: float | None) -> str:
    """Bytes in a readable unit; empty if they were not counted."""
    return "" if size is None else scaled(size, (("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("B", 1)))


def short(runs: list[Run]) -> str:
    """One row per op and network at its typical size, with the worst ratio of all sizes, so that none is hidden."""
    first = runs[0]
    counts = [threads(run) for run in runs]
    header = ["op", "size", "stock", "torchext", *(f"faster by, {n}" for n in counts), "worst row", FUSED, COMPILED]
    body = []
    for row in first.rows:
        if row["typical"]:
            found = [same(run, row) for run in runs]
            taken = [microseconds(figures(row, name)["us"]) for name in (STOCK, OURS)]
            ratios = [times(figures(other, OURS)) if other else "" for other in found]
            others = [f"{entry['ratio']:.2f}x" if (entry := figures(row, name)) else "" for name in (FUSED, COMPILED)]
            body.append([row["op"], row["size"], *taken, *ratios, f"{worst(runs, row['op']):.2f}x", *others])
    note = "Geometric mean over all rows: " + "; ".join(means(run) for run in runs) + "."
    return "\n\n".join([f"Measured: {where(first)}. Times on {counts[0]}.", markdown(header, body), note])


def same(run: Run, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The same row in another run."""
    return next((row for row in run.rows if label(row) == label(wanted)), None)


def worst(runs: list[Run], op: str) -> float:
    """The lowest ratio over all sizes, dtypes, memory formats and runs."""
    return min(figures(row, OURS)["ratio"] for run in runs for row in run.rows if row["op"] == op)


def means(run: Run) -> str:
    """Geometric means of ops and networks, and how many rows are slower."""
    parts = []
    for kind, title in (("op", "ops"), ("network", "networks")):
        entries = [figures(row, OURS) for row in run.of_kind(kind)]
        if entries:
            mean, lost = stats.geometric_mean([e["ratio"] for e in entries]), sum(e["high"] < 1 for e in entries)
            parts.append(f"{title} {mean:.2f}x ({lost} of {len(entries)} rows slower)")
    return f"{threads(run)}: {', '.join(parts)}"


def threads(run: Run) -> str:
    count = run.environment["threads"]
    return f"{count} thread" if count == "1" else f"{count} threads"


def readme_table() -> str:
    """The text between the README's two markers."""
    return short([results.load(results.RESULTS / f"{name}.json") for name in REFERENCES])


def write() -> None:
    """The long tables beside the committed runs, and the README's."""
    for path in results.RESULTS.glob("*.json"):
        path.with_suffix(".md").write_text(long(results.load(path)))
    put(BEGIN, readme_table(), END)


def put(begin: str, text: str, end: str) -> None:
    """Replaces the text between two markers of the README."""
    before, rest = README.read_text().split(begin)
    README.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
