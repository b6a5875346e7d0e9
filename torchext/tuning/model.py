"""torchext.tune(model, *example): measures the routes of exactly the calls that a model makes."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _device_kind, _gate, _gpu, _table_in_force
from .._buffers import Buffers, require_module
from .._table import APART, FAMILIES, ROUTES, Family
from ..explain import columns
from . import machine, search
from .clock import Clock, Ratio, collected, full
from .samples import step

_HALF_OCTAVE = 2**0.5  # what is measured at one size holds for sizes up to so many times larger or smaller

Call = tuple[Callable, tuple, dict[str, Any]]


@dataclass(frozen=True)
class Tuned:
    """One call of a model: what was measured of it, and the route it takes from now on."""

    op: str
    arguments: str
    route: str
    before: str
    microseconds: float
    faster: dict[str, Ratio]


@dataclass(frozen=True)
class Tuning:
    """What :func:`tune` found, a :class:`Tuned` for each call; prints as a table."""

    calls: tuple[Tuned, ...]
    kept: str

    def __str__(self) -> str:
        if not self.calls:
            return "no call reached an op of torchext that a table routes: see torchext.explain(model, ...)"
        rows = [("op", "arguments", "stock", "times faster than stock", "route", "before")]
        for call in self.calls:
            faster = (f"{name} {r.value:.2f} ({r.low:.2f}-{r.high:.2f})" for name, r in call.faster.items())
            time = f"{call.microseconds:.1f} us"
            rows.append((call.op, call.arguments, time, ", ".join(faster), call.route, call.before))
        return f"{columns(rows)}\n{self.kept}"


def tune(model: torch.nn.Module, /, *args: Any, **kwargs: Any) -> Tuning:
    """Measures on this machine every route of the calls that ``model(*args, **kwargs)`` makes, and keeps what won.

    The model runs once, forward. Then each different call of an op of ours is timed on tensors of its shapes, forward
    and, where the call wants gradients, backward: by stock and by each kernel of ours, in turn. A route wins where it
    is faster beyond the noise; ties are stock's. The answer holds for calls of this kind and about this size, from
    then on in this process and, from the user's routing table, in those that start later. On a GPU events are timed.

    The model is left as it was: parameters, gradients, buffers and modes.

    Returns:
        What was measured; prints as a table.

    Raises:
        TypeError: `model` is not an ``nn.Module``.
        RuntimeError: a CUDA graph is being captured.

    Example:
        >>> model = torchext.nn.Sequential(torchext.nn.Linear(64, 32), torchext.nn.ReLU())
        >>> tuning = torchext.tune(model, torch.ones(16, 64))
        >>> [call.op for call in tuning.calls]
        ['linear_relu']
    """
    require_module("tune", model)
    if _gpu.captures():
        Clock("cuda")  # which refuses
    calls = _different(_calls_of(model, args, kwargs))
    found: list[tuple[Tuned, search.Cell]] = []
    with collected():
        for fused in (False, True):  # what a fused op is beside depends on the routes of its parts
            families = [family for family in FAMILIES.values() if (family.routes[0] == APART) is fused]
            measured = [pair for call in calls for family in families for pair in _measure(call, family)]
            for _, cell in sorted(measured, key=_seconds):  # of two calls of one row and size the longer one decides
                _take(cell)
            found += measured
    return Tuning(tuple(tuned for tuned, _ in found), _keep({(cell.family, cell.row) for _, cell in found}))


def _seconds(pair: tuple[Tuned, search.Cell]) -> float:
    return pair[1].seconds


def _take(cell: search.Cell) -> None:
    """Routes calls of the cell's row about its size by what won."""
    low, high = int(cell.size / _HALF_OCTAVE), int(cell.size * _HALF_OCTAVE)
    cell.family.put(cell.row, search.put(cell.family.steps[cell.row], low, high, cell.route))


@contextlib.contextmanager
def _recorded() -> Iterator[list[Call]]:
    before, _gate._calls = _gate._calls, []
    try:
        yield _gate._calls
    finally:
        _gate._calls = before


def _calls_of(model: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> list[Call]:
    buffers = Buffers(model)
    try:
        with contextlib.ExitStack() as stack:
            for family in FAMILIES.values():
                if family.routes[0] == APART:  # so that the parts of what is fused are called too
                    stack.enter_context(family.forced(APART))
            calls = stack.enter_context(_recorded())
            model(*args, **kwargs)
        return [(function, _like(args), _like(kwargs)) for function, args, kwargs in calls]
    finally:
        buffers.restore()


def _like(value: Any) -> Any:
    """The same arguments, with tensors of their own in place of the model's."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value.detach().clone()
        fresh = torch.empty_like(value.detach()).normal_()
        return fresh.requires_grad_(value.requires_grad and torch.is_grad_enabled())
    if isinstance(value, (tuple, list)):
        return type(value)(map(_like, value)) if type(value) in (tuple, list) else value
    return {key: _like(each) for key, each in value.items()} if isinstance(value, dict) else value


def _describe(call: Call) -> str:
    _, args, kwargs = call
    shown = [*map(_argument, args), *(f"{name}={_argument(value)}" for name, value in kwargs.items())]
    return ", ".join(shown)


def _argument(value: Any) -> str:
    return _gate.describe(value) + "*" * (isinstance(value, Tensor) and value.requires_grad)


def _different(calls: list[Call]) -> list[Call]:
    strides = lambda value: value.stride() if isinstance(value, Tensor) else ()
    key = lambda call: (call[0].__name__, _describe(call), tuple(map(strides, (*call[1], *call[2].values()))))
    return list({key(call): call for call in calls}.values())


def _measure(call: Call, family: Family) -> list[tuple[Tuned, search.Cell]]:
    function, args, kwargs = call
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    if family.op not in _OPS.get(function.__name__, (function.__name__,)) or tensors[0].device.type != family.device:
        return []
    run = step(functools.partial(_first, function, args, kwargs), *tensors)
    try:
        cell = search.measure(family, [run], Clock(family.device), full(family.device))
    except search.Unmeasurable:
        return []
    before = ROUTES[family.route(cell.row, cell.size)]
    faster = {ROUTES[route]: ratio for route, ratio in cell.samples[0].items()}
    tuned = Tuned(function.__name__, _describe(call), ROUTES[cell.route], before, 1e6 * cell.seconds, faster)
    return [(tuned, cell)]


def _first(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """Its result; of several the first."""
    result = function(*args, **kwargs)
    return result if isinstance(result, Tensor) else result[0]


# The families that decide on a function, where they do not bear its name.
_OPS = {
    "linear": ("linear_relu",),
    "conv2d_relu": ("conv2d", "conv2d_relu"),
    "max_pool2d_with_indices": ("max_pool2d",),
    **dict.fromkeys(("alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"), ("dropout",)),
}


def _keep(measured: set[tuple[Family, int]]) -> str:
    """Writes the rows to the user's tables; what is told of it."""
    told = []
    for device in sorted({family.device for family, _ in measured}):
        rows = {place for place in measured if place[0].device == device}
        kind = _device_kind.cpu() if device == "cpu" else _device_kind.gpu()
        path = _table_in_force.own(device, kind)
        if path is None:
            told.append(f"kept in this process alone: {_table_in_force.VARIABLE}=shipped")
            continue
        try:
            machine.keep(path, device, kind, rows)
            told.append(f"kept in {path}")
        except OSError as error:
            warnings.warn(f"tune: kept in this process alone, {path} cannot be written: {error}", stacklevel=3)
            told.append("kept in this process alone")
    return "; ".join(told)
