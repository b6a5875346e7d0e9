"""Per layer: which backend serves it, or why stock does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import _choice
from ._buffers import Buffers, require_module
from ._choice import Choice


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found: one :class:`Choice` per call of one of our ops; prints as a table."""

    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        if not self.choices:
            return (
                "no call reached an op of torchext: import layers from torchext.nn, or use torchext.accelerate(model)"
            )
        rows = [(c.layer or "-", c.op, c.backend, c.why, c.row) for c in self.choices]
        return columns([("layer", "op", "backend", "why", "row of the routing table"), *rows])


def columns(rows: Sequence[Sequence[str]]) -> str:
    """The rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def explain(model: torch.nn.Module, /, *args: Any, **kwargs: Any) -> Explanation:
    """Runs ``model(*args, **kwargs)`` once, forward, and tells for each of our ops which backend served it, and why.

    A call inside of a layer that is not registered, made during forward or kept in a list, and inside of a compiled
    part, goes by the name of the registered layer around it that runs as Python.

    The model is left as it was: it stays in its train or eval mode, and buffers that a forward pass changes, such as
    batch norm's statistics, are restored. Lazy layers are initialised, as by any first call.

    Raises:
        TypeError: `model` is not an ``nn.Module``.

    Example:
        >>> with torchext.backend("native"):
        ...     print(torchext.explain(torchext.nn.LinearReLU(256, 120), torch.ones(64, 256)))
        layer  op           backend  why  row of the routing table
        -      linear_relu  native
    """
    require_module("explain", model)
    path: list[str] = []
    names = {module: name for name, module in model.named_modules()}
    buffers = Buffers(model)

    def elsewhere():
        """Whether this call is another's: a trace, where there are no names to tell, or another explain's."""
        return torch.compiler.is_compiling() or _choice.LAYERS.get() is not names

    def enter(module, args):
        if not elsewhere():
            buffers.initialized(module)
            path.append(names[module])
            _choice.LAYER.set(path[-1])

    def leave(module, args, output):
        if not elsewhere():
            path.pop()
            _choice.LAYER.set(path[-1] if path else "")

    hooks, tokens = [], (_choice.LAYERS.set(names), _choice.LAYER.set(""))
    try:
        for module in names:
            if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                hooks.append(module.register_forward_pre_hook(enter))
                hooks.append(module.register_forward_hook(leave, always_call=True))
        with _choice.record_routes() as choices:
            model(*args, **kwargs)
    finally:
        _choice.LAYERS.reset(tokens[0])
        _choice.LAYER.reset(tokens[1])
        for hook in hooks:
            hook.remove()
        buffers.restore()
    return Explanation(tuple(choices))
