"""torch.jit.script compiles layers and functions from their source: in ours it finds torch.nn's."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

from ._private import boolean_dispatched, find_builtin, register_builtin


def stock_method(function: Callable) -> Callable:
    """A method of torch.nn under the name ``_stock_<name>``: TorchScript cannot have two methods of one name."""
    name = f"_stock_{function.__name__.lstrip('_')}"
    twin = FunctionType(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)
    twin.__annotations__ = function.__annotations__
    return twin


def script_as(ours: Callable, stock: Callable) -> None:
    """TorchScript compiles a call of `ours` as one of `stock`: an operator of torch's by name, or a function.

    That of a function is a dispatch on a boolean argument which no call has, so that the default decides.
    """
    operator = register_builtin and find_builtin(stock)
    if operator:
        register_builtin(ours, operator)
    elif boolean_dispatched is not None:
        always = {"if_true": stock, "if_false": stock, "index": 1 << 16, "arg_name": "", "default": True}
        boolean_dispatched[ours] = always
