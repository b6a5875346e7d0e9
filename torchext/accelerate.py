"""Rewrites an existing model's layers in place: our classes for stock's, and neighbours in an nn.Sequential fused."""

from __future__ import annotations

import torch
from torch import nn as stock

from . import nn


def accelerate(model: torch.nn.Module) -> torch.nn.Module:
    """Serves `model`'s layers by our kernels, without touching a parameter: same state_dict, hooks and optimizer.

    Every layer that is exactly a stock class we have a kernel for (not a subclass, which may compute something else)
    becomes ours in place. In an ``nn.Sequential``, ``Linear, ReLU`` becomes ``LinearReLU``, ``Conv2d, ReLU`` becomes
    ``ConvReLU2d``, ``Conv2d, ReLU, MaxPool2d`` becomes ``ConvReLUMaxPool2d`` and ``BatchNorm2d, ReLU, MaxPool2d``
    becomes ``BatchNormReLUMaxPool2d``; what they absorb becomes ``nn.Identity``, so that every name stays. A layer with
    hooks is not absorbed: the hook would see another tensor.

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
          (0): LinearReLU(in_features=4, out_features=8, bias=True)
          (1): Identity()
          (2): Linear(in_features=8, out_features=1, bias=True)
        )
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"accelerate: model is a {type(model).__name__}, expected a torch.nn.Module")
    for module in list(model.modules()):
        if isinstance(module, stock.Sequential) and type(module).forward is stock.Sequential.forward:
            _fuse_neighbours(module)
    ours = {getattr(stock, name): getattr(nn, name) for name in nn.OURS if hasattr(stock, name)}
    for module in model.modules():
        if type(module) in ours:
            module.__class__ = ours[type(module)]
    return model


def _fuse_neighbours(sequence: stock.Sequential) -> None:
    names = list(sequence._modules)
    for i in range(len(names)):
        first, *rest = (sequence._modules[n] for n in names[i : i + 3])
        absorbed = _fuse(first, rest)
        for other in names[i + 1 : i + 1 + absorbed]:
            sequence._modules[other] = stock.Identity()


def _fuse(first: torch.nn.Module, rest: list[torch.nn.Module]) -> int:
    """Makes `first` do the work of its successors; returns of how many."""
    if type(first) not in (stock.Linear, stock.Conv2d, stock.BatchNorm2d) or _has_hooks(first, after=True):
        return 0
    if not rest or type(rest[0]) is not stock.ReLU or _has_hooks(rest[0]):
        return 0
    if type(first) is stock.Linear:
        first.__class__ = nn.LinearReLU
        return 1
    if len(rest) > 1 and type(rest[1]) is stock.MaxPool2d and not rest[1].return_indices and not _has_hooks(rest[1]):
        pooled = nn.ConvReLUMaxPool2d if type(first) is stock.Conv2d else nn.BatchNormReLUMaxPool2d
        pooled.absorb(first, rest[1])
        return 2
    if type(first) is stock.BatchNorm2d:
        return 0
    first.__class__ = nn.ConvReLU2d
    return 1


def _has_hooks(module: torch.nn.Module, after: bool = False) -> bool:
    """Whether a hook of `module` would see another tensor; `after`: only those that see its output."""
    hooks = [module._forward_hooks, module._backward_hooks]
    if not after:
        hooks += [module._forward_pre_hooks, module._backward_pre_hooks]
    return any(hooks)
