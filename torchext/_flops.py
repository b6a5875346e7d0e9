"""What torch.utils.flop_counter counts for our ops: what it counts for the stock calls they stand for.

Matrix products and convolutions; pooling, dropout, normalisation and losses count nothing there.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from ._private import argument_names
from ._shapes import convolved_sizes

_NAME = "torch.utils.flop_counter"
_aten = torch.ops.aten


class _Arguments(dict):
    """An op's arguments by the names of its schema, and `count`, the counter's formulas by op."""

    __getattr__ = dict.__getitem__

    def product(self, m: int, k: int, n: int) -> int:
        return self.count[_aten.mm](torch.Size((m, k)), torch.Size((k, n)), out_val=torch.Size((m, n)))


def _linear(a: _Arguments) -> int:
    return a.product(*a.x.shape, a.w.shape[0])


def _linear_backward(a: _Arguments) -> int:
    return (a.want_dx + a.want_dw) * _linear(a)


def _convolved(a: _Arguments) -> torch.Size:
    """The shape of the convolution's result."""
    sizes = convolved_sizes(a.x, a.w, a.stride, a.padding, a.dilation)
    return torch.Size((a.x.shape[0], a.w.shape[0], *sizes))


def _conv2d(a: _Arguments) -> int:
    options = None, a.stride, a.padding, a.dilation, False, (0, 0), a.groups
    return a.count[_aten.convolution](a.x.shape, a.w.shape, *options, out_val=_convolved(a))


def _conv2d_backward(a: _Arguments) -> int:
    options = None, a.stride, a.padding, a.dilation, False, (0, 0), a.groups, (a.want_dx, a.want_dw, a.want_db)
    out = a.x.shape, a.w.shape, None
    return a.count[_aten.convolution_backward](_convolved(a), a.x.shape, a.w.shape, *options, out_val=out)


def _logits(a: _Arguments) -> int:
    return a.product(*a.x.shape, a.w.shape[:-1].numel())


def _linear_cross_entropy(a: _Arguments) -> int:
    """With the gradients that it makes in forward."""
    return (1 + a.want_dx + a.want_dw) * _logits(a)


def _linear_cross_entropy_backward(a: _Arguments) -> int:
    """Without the logits that it makes anew, as stock does not."""
    return (a.want_dx + a.want_dw) * _logits(a)


FORMULAS: dict[str, Callable[[_Arguments], int]] = {
    "linear": _linear,
    "linear_relu": _linear,
    "linear_backward": _linear_backward,
    "conv2d": _conv2d,
    "conv2d_relu": _conv2d,
    "conv2d_backward": _conv2d_backward,
    "conv2d_relu_max_pool2d": _conv2d,
    "conv2d_relu_max_pool2d_backward": _conv2d_backward,
    "linear_cross_entropy": _linear_cross_entropy,
    "linear_cross_entropy_backward": _linear_cross_entropy_backward,
}


def _register(counter: ModuleType) -> None:
    for name, formula in FORMULAS.items():
        packet = getattr(torch.ops.torchext, name)
        names = argument_names(packet.default)
        if names is not None and packet not in counter.flop_registry:
            counter.register_flop_formula(packet, get_raw=True)(_on_names(names, formula, counter.flop_registry))


def _on_names(names: list[str], formula: Callable, count: dict) -> Callable:
    def flops(*args, out_val=None, **kwargs):
        return formula(_Arguments(zip(names, args), count=count, **kwargs))

    return flops


class _Finder:
    """Waits for the first import of the counter, which takes 0.2 s: with Triton, which it imports."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name != _NAME:
            return None
        sys.meta_path.remove(_Finder)
        spec = importlib.util.find_spec(name)
        loader = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            _register(module)

        loader.exec_module = exec_module
        return spec


def register() -> None:
    """Registers the formulas with torch's counter, now or when somebody imports it."""
    if _NAME in sys.modules:
        _register(sys.modules[_NAME])
    elif _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
