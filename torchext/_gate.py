"""The one gate of every public function: ours, or the stock call as it was written; and what stock refuses, told."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _observers
from ._choice import note
from ._private import dynamo_backend, is_exporting
from ._servable import PLAIN
from ._table import Decided

REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)
_is_compiling = torch.compiler.is_dynamo_compiling
_calls: list[tuple[Callable, tuple, dict[str, Any]]] | None = None  # those of ours, while tune() looks for them


def _fuses_later() -> bool:
    """Whether Dynamo traces for our own backend, which takes stock's functions for ours, and fuses them."""
    return dynamo_backend().startswith("torchext")


def drop_in(counterpart: Callable, wants: str) -> Callable[[Callable], Callable]:
    """Makes a function of ours the call of `counterpart` that was written, wherever somebody could tell them apart."""

    def decorate(ours: Callable) -> Callable:
        @functools.wraps(ours)
        def function(*args, **kwargs):
            if _is_compiling():
                stocks = is_exporting() or _fuses_later()
                return (counterpart if stocks else ours)(*args, **kwargs)
            why = _observers.why_seen()
            first = args[0] if args else kwargs.get("input")
            if why is None and type(first) in PLAIN and not first.is_nested:
                if _calls is not None:
                    _calls.append((function, args, kwargs))
                return ours(*args, **kwargs)
            why = why or (
                "a nested tensor" if type(first) in PLAIN else f"{type(first).__name__} is not a plain tensor"
            )
            note(ours.__name__, "stock", why)
            if hasattr(first, "__torch_function__"):
                return counterpart(*args, **kwargs)
            return _refused(ours, counterpart, wants, args, kwargs)

        return function

    return decorate


def _refused(ours: Callable, counterpart: Callable, wants: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Has stock refuse what is no tensor, and names the arguments by the signature of ours."""
    try:
        return counterpart(*args, **kwargs)
    except REFUSALS as error:
        try:
            named = inspect.signature(ours).bind(*args, **kwargs).arguments
        except TypeError:  # they fit neither
            raise error from None
        raise refusal(ours.__name__, wants, error, **named) from None


def call_stock(
    op: str, why: str, decided: Decided | None, wants: str, function: Callable, names: Sequence[str], *args: Any
) -> Any:
    """Serves the call by stock, its arguments by position: keywords take 1 to 3 us of calls that take 10.

    Where stock refuses, the error says what we expected and got, by `names`, then what torch said.
    """
    note(op, "stock", why, decided)
    try:
        return function(*args)
    except REFUSALS as error:
        raise refusal(op, wants, error, **dict(zip(names, args))) from None


def refusal(op: str, wants: str, error: Exception, **arguments: Any) -> Exception:
    """An exception of `error`'s type that says what we expected and got, then what torch said."""
    got = ", ".join(f"{name} {describe(value)}" for name, value in arguments.items())
    try:
        return type(error)(f"{op}: expected {wants}; got {got} (torch: {error})")
    except Exception:  # an exception type that takes other arguments
        return error


def describe(value: Any) -> str:
    """An argument in an error: a tensor by its dtype, shape and device."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        shape = "[nested]" if value.is_nested else list(value.shape)
        return f"{dtype}{shape}" + ("" if value.device.type == "cpu" else f" on {value.device}")
    return repr(value)
