"""Samples of linear and linear_relu."""

from __future__ import annotations

from collections.abc import Callable

from .._linear_relu_route import CPU, GPU
from .._table import Family
from ..linear_relu import linear, linear_relu
from .samples import Calls, Samples, When, as_on_cpu, draw, powers, root, step

_ROWS = {"one": (1,), "to 31": (4, 16), "more": (64, 256), "any": (1, 64, 1024)}

_MOST = 1 << 28  # elements of a weight


def _sizes(family: Family, when: When) -> list[int]:
    if family is GPU:
        return powers(16, 36)
    return powers(4, 22) if when["rows"] == "one" else powers(6, 26)


def _calls(family: Family, when: When, size: int) -> Calls:
    if family is GPU:
        when = as_on_cpu(when, columns="more", rows="any")
    shapes = [_shape(when, size, rows) for rows in _ROWS[when["rows"]]]
    return [_call(when, m, k, n) for m, k, n in shapes if k > 0 and k * n <= _MOST]


def _shape(when: When, size: int, rows: int) -> tuple[int, int, int]:
    """Rows, depth and columns; a depth of 0 where there are more columns than that."""
    columns = 10 if when["columns"] == "to 16" else max(17, root(size / rows))
    return rows, size // (rows * columns), columns


def _call(when: When, rows: int, depth: int, columns: int) -> Callable[[], object]:
    x, w, b = draw(when, rows, depth), draw(when, columns, depth), draw(when, columns)
    function = linear_relu if when["relu"] == "yes" else linear
    return step(lambda: function(x, w, b), x, w, b)


SAMPLES = Samples((CPU, GPU), _sizes, _calls)
