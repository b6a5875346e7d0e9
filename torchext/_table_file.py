"""Files of the routing table: read and written whole; which one is in force here."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import _device_kind
from ._private import when_cuda_starts
from ._table import ANY, FAMILIES, ROUTES, Family, Row
from ._unpacked import VERSION

FORMAT = 1
SHIPPED = Path(__file__).parent / "routes"
VARIABLE = "TORCHEXT_TABLE"  # a file; or "shipped": none of the user's


@dataclass
class Table:
    """A file's contents: rows measured on one kind of device, by which versions, and when."""

    device: str  # "cpu" or "cuda"
    kind: str
    rows: list[Row]
    about: dict[str, str] = field(default_factory=dict)
    path: Path | None = None


@dataclass(frozen=True)
class InForce:
    """Which table routes calls on one type of device; `how` is "shipped", "yours" or the variable that named it."""

    path: Path
    kind: str
    how: str

    def __str__(self) -> str:
        return f"measured on {self.kind} ({self.how}: {self.path})"


in_force: dict[str, InForce] = {}


def about() -> dict[str, str]:
    """The versions that a table written here is of."""
    return {"torch": torch.__version__, "torchext": VERSION}


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
    if (row["op"], device) not in FAMILIES or not {route for _, route in steps} <= set(ROUTES):
        raise ValueError(f"it names op {row['op']!r} on {device!r} and routes {[route for _, route in steps]}")
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


def fill(device: str, *tables: Table) -> None:
    """Routes by `tables` from now on, on one type of device: by each row of the last that has it.

    Raises:
        ValueError: a row is not what its family can have; then nothing has changed.
    """
    families = [family for family in FAMILIES.values() if family.device == device]
    before = [family.steps for family in families]
    try:
        for family in families:
            family.clear()
        for table in tables:
            for row in table.rows:
                FAMILIES[row.op, row.device].fill(row)
    except ValueError:
        for family, steps in zip(families, before):
            family.steps = steps
        raise
    finally:
        for family in families:
            family.settle()


def cache() -> Path:
    """The folder of the user's tables."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchext" / "routes"


def users(kind: str) -> Path:
    """Where `tune` keeps what it measured on this kind of device."""
    versions = "-".join(f"{name}-{version}" for name, version in about().items())
    return cache() / f"{kind}-{versions}.json"


def own(device: str, kind: str) -> Path | None:
    """The file that tune(model) adds to: the one TORCHEXT_TABLE names, else the user's; None where none may be."""
    named = os.environ.get(VARIABLE, "")
    if named == "shipped":
        return None
    table = in_force.get(device)
    return table.path if named and table is not None and table.how == VARIABLE else users(kind)


def shipped(device: str, kind: str) -> Table:
    """The table that comes with torchext and is likest to this kind of device."""
    tables = [table for path in sorted(SHIPPED.glob("*.json")) if (table := read(path)).device == device]
    return max(tables, key=lambda table: _device_kind.likeness(table.kind, kind))


def load(device: str, kind: str) -> None:
    """Takes the table that is in force: the one TORCHEXT_TABLE names; else the shipped one, and the user's over it.

    What cannot be used is passed over, with one warning.
    """
    base = shipped(device, kind)
    for path, how in _candidates(kind):
        try:
            table = read(path)
            if table.device != device:
                continue
            if how == "yours" and (table.kind != kind or {key: table.about.get(key) for key in about()} != about()):
                raise ValueError(f"it was measured by {table.about} on {table.kind}")
            fill(device, *((base, table) if how == "yours" else (table,)))
        except (OSError, ValueError) as error:
            warnings.warn(f"torchext: the routing table {path} is not used: {error}", stacklevel=2)
            continue
        in_force[device] = InForce(path, table.kind, how)
        return
    fill(device, base)
    in_force[device] = InForce(base.path, base.kind, "shipped")


def _candidates(kind: str) -> Iterator[tuple[Path, str]]:
    named = os.environ.get(VARIABLE, "")
    if named == "shipped":
        return
    if named:
        yield Path(named), VARIABLE
    elif (path := _try_users(kind)) is not None:
        yield path, "yours"


def _try_users(kind: str) -> Path | None:
    try:
        path = users(kind)
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # no home folder
        return None


def load_all() -> None:
    """At import: the CPU's table, and of GPUs the shipped one until CUDA starts and tells which GPU it is."""
    load("cpu", _device_kind.cpu())
    fill("cuda", shipped("cuda", ""))
    if torch.version.cuda is not None:
        when_cuda_starts(lambda: load("cuda", _device_kind.gpu()))


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
        yield


def others(path: Path, device: str, kind: str, measured: set[tuple[Family, int]]) -> set[tuple[Family, int]]:
    """Fills rows that `path` has of this kind and these versions, but for those just measured; which they are."""
    try:
        table = read(path)
    except (OSError, ValueError):
        return set()
    versions = {key: table.about.get(key) for key in about()}
    if table.device != device or table.kind != kind or versions != about():
        return set()
    found = set()
    for row in table.rows:
        family = FAMILIES[row.op, row.device]
        for number in family.numbers(row):
            if (family, number) not in measured:
                family.steps[number] = family.steps_named(row)
                found.add((family, number))
        family.settle()
    return found
