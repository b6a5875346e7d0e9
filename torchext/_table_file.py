"""Files of the routing table: read and written whole, whoever else does."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ._table import ANY, FAMILIES, ROUTES, Family, Row, Steps
from ._unpacked import VERSION

FORMAT = 1


@dataclass
class Table:
    """A file's contents: rows measured on one kind of device, by which versions, and when."""

    device: str  # "cpu" or "cuda"
    kind: str
    rows: list[Row]
    about: dict[str, str] = field(default_factory=dict)
    path: Path | None = None


def about() -> dict[str, str]:
    """The versions that a table written here is of."""
    return {"torch": torch.__version__, "torchext": VERSION}


def is_of(table: Table, device: str, kind: str) -> bool:
    """Whether it was measured on this kind of device by the versions that run."""
    versions = {key: table.about.get(key) for key in about()}
    return (table.device, table.kind, versions) == (device, kind, about())


def read(path: Path) -> Table:
    """The table in `path`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no table, or of another format, or names what no family has.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']}, expected {FORMAT}")
        rows = [_row(found["device"], row) for row in found["rows"]]
        about = {key: str(value) for key, value in found["about"].items()}
        return Table(found["device"], found["kind"], rows, about, path)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no routing table ({type(error).__name__}: {error})") from None


def _row(device: str, row: dict[str, Any]) -> Row:
    when = {name: [values] if isinstance(values, str) else list(values) for name, values in row["when"].items()}
    steps = tuple((ANY if most is None else int(most), route) for most, route in row["steps"])
    if (row["op"], device) not in FAMILIES:
        raise ValueError(f"it names op {row['op']!r} on {device!r}")
    return Row(row["op"], device, when, row["by"], steps)


def write(table: Table, path: Path) -> None:
    """Writes `table`: whole or not at all, whoever else writes it meanwhile and wherever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text(table))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def text(table: Table) -> str:
    """The file, a row a line."""
    head = {"format": FORMAT, "device": table.device, "kind": table.kind, "about": table.about}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    rows = ",\n".join(f"  {json.dumps(_entry(row))}" for row in table.rows)
    return "{\n" + ",\n".join(lines) + f',\n"rows": [\n{rows}\n]\n}}\n'


def _entry(row: Row) -> dict[str, Any]:
    when = {name: values[0] if len(values) == 1 else list(values) for name, values in row.when.items()}
    steps = [[None if most == ANY else most, route] for most, route in row.steps]
    return {"op": row.op, "when": when, "by": row.by, "steps": steps}


def rows_of(family: Family, measured: Iterable[int]) -> list[Row]:
    """The rows of these numbers as a file has them: those of equal steps joined where they fill a class."""
    groups: dict[tuple, list[dict[str, tuple[str, ...]]]] = {}
    for number in measured:
        when = family.when(number)
        key = family.steps[number], family.by(when)
        groups.setdefault(key, []).append({name: (value,) for name, value in when.items()})
    found = []
    for (steps, by), whens in groups.items():
        named = tuple((most, ROUTES[route]) for most, route in steps)
        for when in _joined(whens, family):
            shown = {name: values for name, values in when.items() if len(values) < len(family.classes[name])}
            found.append(Row(family.op, family.device, shown, by, named))
    return found


def _joined(whens: list[dict[str, tuple[str, ...]]], family: Family) -> list[dict[str, tuple[str, ...]]]:
    """The same combinations in fewer entries: class by class, those that differ in it alone become one."""
    for name, order in family.classes.items():
        alike: dict[tuple, list[str]] = {}
        for when in whens:
            others = tuple((key, values) for key, values in when.items() if key != name)
            alike.setdefault(others, []).extend(when[name])
        whens = [dict(others) | {name: tuple(sorted(values, key=order.index))} for others, values in alike.items()]
    return [{key: when[key] for key in family.classes} for when in whens]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within the block no other process that asks for it changes `path`; where files cannot be locked, no promise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path.with_suffix(".lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a process forked meanwhile has the file open too


def others(path: Path, device: str, kind: str, measured: set[tuple[Family, int]]) -> set[tuple[Family, int]]:
    """Fills rows that `path` has of this kind and these versions, but for those just measured; which they are."""
    kept: dict[tuple[Family, int], Steps] = {}
    try:
        table = read(path)
        for row in table.rows if is_of(table, device, kind) else ():
            family = FAMILIES[row.op, row.device]
            kept |= dict.fromkeys(((family, number) for number in family.numbers(row)), family.steps_named(row))
    except (OSError, ValueError):
        return set()
    found = set(kept) - measured
    for family, number in found:
        family.put(number, kept[family, number])
    return found
