"""torch.jit.script compiles a layer's forward from its source: what it finds in ours are the methods of torch.nn."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType


def stock_method(function: Callable) -> Callable:
    """A method of torch.nn under another name, ``_stock_<name>``: for TorchScript two of one name are one too many."""
    name = f"_stock_{function.__name__.lstrip('_')}"
    twin = FunctionType(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)
    twin.__annotations__ = function.__annotations__
    return twin
