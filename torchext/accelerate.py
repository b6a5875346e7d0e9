"""Rewrites an existing model's layers in place: our classes for stock's, and stock's for ours."""

from __future__ import annotations

import torch
from torch import nn as stock

from . import nn
from ._buffers import require_module
from ._counterpart import become_stock


def accelerate(model: torch.nn.Module) -> torch.nn.Module:
    """Serves `model`'s layers by our kernels, without touching a parameter: same state_dict, hooks and optimizer.

    Every layer that is exactly a stock class we have one for (not a subclass, which may compute something else) becomes
    ours in place. An ``nn.Sequential`` becomes ours too, which runs ``Linear, ReLU``, ``Conv2d, ReLU, MaxPool2d`` and
    the like as one.

    Args:
        model: any module; it is changed in place.

    Returns:
        `model` itself.

    Raises:
        TypeError: `model` is not an ``nn.Module``.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> torchext.accelerate(model)
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): ReLU()
          (2): Linear(in_features=8, out_features=1, bias=True)
        )
    """
    require_module("accelerate", model)
    ours = {getattr(stock, name): getattr(nn, name) for name in nn.OURS if hasattr(stock, name)}
    for module in model.modules():
        if type(module) in ours:
            module.__class__ = ours[type(module)]
    return model


def restore(model: torch.nn.Module) -> torch.nn.Module:
    """The inverse of :func:`accelerate`: serves `model`'s layers by torch's own classes again.

    Every layer that is exactly a class of ours which stands for one of torch.nn becomes torch's in place, however it
    was made; parameters, buffers, hooks and modes stay. ``LinearReLU`` and its kind, which torch.nn does not have, and
    subclasses are left alone. For programs that look at a layer's code or compare classes with ``is``.

    Args:
        model: any module; it is changed in place.

    Returns:
        `model` itself.

    Raises:
        TypeError: `model` is not an ``nn.Module``.

    Example:
        >>> model = torchext.accelerate(torch.nn.Linear(4, 2))
        >>> type(torchext.restore(model)) is torch.nn.Linear
        True
    """
    require_module("restore", model)
    for module in model.modules():
        become_stock(module)
    return model
