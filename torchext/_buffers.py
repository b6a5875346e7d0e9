"""A model's buffers, saved before a forward pass and restored after it; and the check that it is a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ._private import buffers_of


class Buffers:
    """A model's buffers as they are now: names, shapes, memory and values."""

    def __init__(self, model: nn.Module) -> None:
        owned = map(buffers_of, _python_modules(model))
        self._owned = [(buffers, dict(buffers)) for buffers in owned]
        named = {id(t): t for t in model.buffers()}
        self._lazy = {name: t for name, t in named.items() if is_lazy(t)}
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in named.values():
            if not is_lazy(t):
                self._hold(t)

    def _hold(self, t: Tensor) -> None:
        # `.data` keeps the shape and the memory, whatever becomes of `t`; to write there counts no version of `t`, and
        # is allowed where `t` was made in inference mode.
        self._held.append((t, t.data, t.detach().clone()))

    def initialized(self, module: nn.Module) -> None:
        """A lazy layer has just got its first values, and has not changed them yet."""
        for t in buffers_of(module).values():
            if id(t) in self._lazy and not is_lazy(t):
                self._hold(self._lazy.pop(id(t)))

    def restore(self) -> None:
        for buffers, before in self._owned:
            buffers.clear()
            buffers.update(before)
        for t, data, values in self._held:
            data.copy_(values)
            if not _lies_where(t, data):
                t.data = data


def _python_modules(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]


def _lies_where(t: Tensor, other: Tensor) -> bool:
    return (
        t.data_ptr() == other.data_ptr()
        and t.shape == other.shape
        and t.dtype == other.dtype
        and t.stride() == other.stride()
    )


def require_module(function: str, model: object) -> None:
    """Raises TypeError for what is not an nn.Module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model is a {type(model).__name__}, expected a torch.nn.Module")
