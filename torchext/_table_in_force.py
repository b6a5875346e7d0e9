"""Which routing table is in force here: the shipped one, the user's over it, or the one that TORCHEXT_TABLE names."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from . import _device_kind
from ._private import when_cuda_starts
from ._table import FAMILIES
from ._table_file import Table, about, is_of, read

SHIPPED = Path(__file__).parent / "routes"
VARIABLE = "TORCHEXT_TABLE"  # a file; or "shipped": none of the user's


@dataclass(frozen=True)
class InForce:
    """Which table routes calls on one type of device; `how` is "shipped", "yours" or the variable that named it."""

    path: Path
    kind: str
    how: str

    def __str__(self) -> str:
        return f"measured on {self.kind} ({self.how}: {self.path})"


in_force: dict[str, InForce] = {}


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
    paths = [path for path in sorted(SHIPPED.glob("*.json")) if path.stem.startswith("sm_") == (device == "cuda")]
    return read(max(paths, key=lambda path: _device_kind.likeness(path.stem, kind)))


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
            if how == "yours" and not is_of(table, device, kind):
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
