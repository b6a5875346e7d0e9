"""The routing table: by kind of call, up to which size each route serves it. What measured speed decides is asked here.

A family is one op on one kind of device. Its rows are all combinations of its classes ("dtype", "gradient", ...), each
row a number, each number a list of steps: `(most, route)`, the sizes up to `most` that go that way. To look one up is
an index and a comparison or two, 0.1 us. What the steps are is data: torchext/routes, or a file that `tune` wrote.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

ROUTES = ("stock", "library", "native", "triton", "direct", "winograd", "apart", "joined")
STOCK, LIBRARY, NATIVE, TRITON, DIRECT, WINOGRAD, APART, JOINED = range(len(ROUTES))
ANY = 1 << 62  # no size is above it

Steps = tuple[tuple[int, int], ...]

FLOATS = ("float32", "float64", "bfloat16", "float16")
DTYPE = {getattr(torch, name): index for index, name in enumerate(FLOATS)}
NO_YES = ("no", "yes")
THREADS = ("one", "several")
_threads = torch.get_num_threads


def several_threads() -> int:
    """The digit of the class "threads"."""
    return 1 if _threads() > 1 else 0


several_threads._dynamo_marked_constant = True  # torch.compiler.assume_constant_result, which would import Dynamo (1 s)


class Row(NamedTuple):
    """Of a file: the steps of all rows whose classes are among `when`; a class that it does not name may be any."""

    op: str
    device: str
    when: Mapping[str, Sequence[str]]
    by: str
    steps: tuple[tuple[int, str], ...]


class Family:
    """The rows of one op on one type of device.

    Args:
        op: the op's stem.
        device: "cpu" or "cuda".
        otherwise: the route of rows that no table names.
        routes: those that a row may have, `otherwise` among them.
        by: the unit of sizes; or what gives it from a row's classes.
        classes: the values of each class, in the order of a row's digits.
    """

    def __init__(self, op: str, device: str, otherwise: int, routes: Sequence[int], by, **classes: Sequence[str]):
        self.op, self.device, self.otherwise, self.routes, self.classes = op, device, otherwise, routes, classes
        self.by = by if callable(by) else lambda when: by
        self.count = math.prod(map(len, classes.values()))
        self.steps: Sequence[Steps] = ()
        self.stock_to = 0  # up to this size every row is stock's: what is asked before a call's arguments are read
        self.clear()
        FAMILIES[op, device] = self

    def clear(self) -> None:
        """Forgets every row."""
        self.steps = [((ANY, self.otherwise),)] * self.count
        self.settle()

    def settle(self) -> None:
        """After rows have changed."""
        first = [steps[0] for steps in set(self.steps)]
        self.stock_to = min(most if route == STOCK else -1 for most, route in first)

    def route(self, row: int, size: int) -> int:
        """Who serves calls of this row and size."""
        for most, route in self.steps[row]:
            if size <= most:
                return route
        return self.otherwise

    def row(self, **when: str) -> int:
        """The number of the row of these classes."""
        number = 0
        for name, values in self.classes.items():
            number = number * len(values) + values.index(when[name])
        return number

    def when(self, row: int) -> dict[str, str]:
        """The classes of the row of this number."""
        found = {}
        for name, values in reversed(self.classes.items()):
            row, digit = divmod(row, len(values))
            found[name] = values[digit]
        return dict(reversed(found.items()))

    def combinations(self) -> Iterator[dict[str, str]]:
        """The classes of all rows, in their order."""
        for values in itertools.product(*self.classes.values()):
            yield dict(zip(self.classes, values))

    def fill(self, row: Row) -> None:
        """Takes a file's row.

        Raises:
            ValueError: it names a class, a value or a route that the family has not, or its steps do not rise to "any".
        """
        steps = self.steps_named(row)
        for number in self.numbers(row):
            self.steps[number] = steps

    def put(self, row: int, steps: Steps) -> None:
        """Routes one row by `steps` from now on."""
        self.steps[row] = steps
        self.settle()

    def numbers(self, row: Row) -> list[int]:
        """The rows that a file's row stands for."""
        unknown = set(row.when) - set(self.classes)
        if unknown:
            raise ValueError(f"{self.op}: unknown class {min(unknown)!r}, expected among {list(self.classes)}")
        numbers = [0]
        for name, values in self.classes.items():
            chosen = row.when.get(name, values)
            if not set(chosen) <= set(values):
                raise ValueError(f"{self.op}: {name} is {list(chosen)}, expected among {list(values)}")
            digits = [values.index(value) for value in chosen]
            numbers = [number * len(values) + digit for number in numbers for digit in digits]
        return numbers

    def steps_named(self, row: Row) -> Steps:
        """A file's steps, as `steps` has them."""
        mosts = [most for most, _ in row.steps]
        if not mosts or mosts != sorted(set(mosts)) or mosts[-1] != ANY:
            raise ValueError(f"{self.op}: steps {row.steps}, expected rising sizes and one for all others at the end")
        allowed = [ROUTES[route] for route in self.routes]
        for _, route in row.steps:
            if route not in allowed:
                raise ValueError(f"{self.op}: route {route!r}, expected among {allowed}")
        return tuple((most, ROUTES.index(route)) for most, route in row.steps)

    @contextlib.contextmanager
    def forced(self, route: int) -> Iterator[None]:
        """Within the block every row has this route, whatever the size: to measure it, in all threads."""
        before = self.steps, self.stock_to
        self.steps, self.stock_to = _Always(route), ANY if route == STOCK else -1
        try:
            yield
        finally:
            self.steps, self.stock_to = before

    def describe(self, row: int | None, size: int) -> str:
        """The row that decides calls like this, in words; None where all agree."""
        if row is None:
            return f"stock to {self.stock_to} {self.by(self.when(0))} (all rows); here {size}"
        when = self.when(row)
        classes = ", ".join(f"{name} {value}" for name, value in when.items())
        return f"{describe_steps(self.steps[row], self.by(when))} ({classes}); here {size}"


FAMILIES: dict[tuple[str, str], Family] = {}
Decided = tuple[Family, int | None, int]  # who was asked: the family, the number of the row (None: all rows), the size


class _Always:
    """Steps that are the same in every row."""

    def __init__(self, route: int):
        self.steps = ((ANY, route),)

    def __getitem__(self, row: int) -> Steps:
        return self.steps


def describe_steps(steps: Iterable[tuple[int, int]], by: str) -> str:
    """As in "stock to 65536 multiply-adds, then native"."""
    parts = [ROUTES[route] if most == ANY else f"{ROUTES[route]} to {most} {by}" for most, route in steps]
    return ", then ".join(parts)
