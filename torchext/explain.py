"""Per layer: which backend serves it, or why stock does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from . import _route
from ._route import Choice


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found: one :class:`Choice` per call of one of our ops; prints as a table."""

    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        if not self.choices:
            return (
                "no call reached an op of torchext: import layers from torchext.nn, or use torchext.accelerate(model)"
            )
        rows = [("layer", "op", "backend", "why"), *((c.layer or "-", c.op, c.backend, c.why) for c in self.choices)]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def explain(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Explanation:
    """Runs ``model(*args, **kwargs)`` once, forward, and tells for each of our ops which backend served it, and why.

    The model is left as it was: it stays in its train or eval mode, and buffers that a forward pass changes, such as
    batch norm's statistics, are restored.

    Raises:
        TypeError: `model` is not an ``nn.Module``.

    Example:
        >>> print(torchext.explain(torchext.nn.LinearReLU(4, 2), torch.ones(1, 4)))
        layer  op           backend  why
        -      linear_relu  native
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"explain: model is a {type(model).__name__}, expected a torch.nn.Module")
    path: list[str] = []

    def enter(module, args):
        path.append(_route.LAYERS.get().get(module, ""))
        _route.LAYER.set(path[-1])

    def leave(module, args, output):
        path.pop()
        _route.LAYER.set(path[-1] if path else "")

    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    hooks = []
    try:
        layers = {module: name for name, module in model.named_modules()}
        token = _route.LAYERS.set(layers)
        for module in layers:
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
        with _route.record_routes() as choices:
            model(*args, **kwargs)
    finally:
        _route.LAYERS.reset(token)
        _route.LAYER.set("")
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
    return Explanation(tuple(choices))
