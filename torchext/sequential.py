"""Sequential: neighbours that one of our kernels serves together run as one; the layers stay what they are."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from . import _choice, _gpu, _observers
from ._conv2d_relu_max_pool2d_route import is_ever_ours_on_gpu
from ._counterpart import Counterpart
from ._private import (
    call_path,
    global_backward_hooks,
    global_backward_pre_hooks,
    global_forward_hooks,
    global_forward_pre_hooks,
    is_hooked,
)
from ._scripting import stock_method
from ._servable import PLAIN
from ._table import APART, JOINED, NO_YES, Family
from .batch_norm_relu_max_pool2d import BatchNormReLUMaxPool2d
from .conv2d import Conv2d, ConvReLU2d
from .conv2d_relu_max_pool2d import ConvReLUMaxPool2d
from .linear_relu import Linear, LinearReLU
from .max_pool2d import MaxPool2d

_is_compiling = torch.compiler.is_dynamo_compiling

# What serves a layer and the ReLU after it, and what serves these and the pooling after them. Classes are keyed by id:
# to look up one of ours takes 0.4 us, and not 0.05, as its metaclass compares it with torch's.
_LINEAR = LinearReLU.forward, None
_CONV = ConvReLU2d.serve, ConvReLUMaxPool2d.serve
_NORM = None, BatchNormReLUMaxPool2d.serve
_CLASSES = {_LINEAR: (nn.Linear, Linear), _CONV: (nn.Conv2d, Conv2d), _NORM: (nn.BatchNorm2d,)}
_SERVED = {id(cls): serving for serving, classes in _CLASSES.items() for cls in classes}
_POOLS = {id(nn.MaxPool2d), id(MaxPool2d)}

_NOBODY, _END = contextlib.nullcontext(), object()

# What runs when layers are called one by one; a user may have replaced it.
_JOINED = (*itertools.chain(*_CLASSES.values()), nn.ReLU, nn.MaxPool2d, MaxPool2d)
_FORWARDS = {id(cls): cls.forward for cls in _JOINED}
_PATH, _CONV_FORWARD, _RELU = call_path(), Conv2d._conv_forward, F.relu


class Sequential(nn.Sequential, metaclass=Counterpart):
    """:class:`torch.nn.Sequential`, that runs ``Linear, ReLU``, ``Conv2d, ReLU``, ``Conv2d, ReLU, MaxPool2d`` and
    ``BatchNorm2d, ReLU, MaxPool2d`` as one: what ``LinearReLU`` and its kind compute.

    A layer with hooks, or of a class of its own, runs by itself, and its neighbours see what they always saw.

    Example:
        >>> from torchext import nn
        >>> model = nn.Sequential(nn.Linear(256, 120), nn.ReLU())
        >>> [(choice.layer, choice.op) for choice in torchext.explain(model, torch.ones(64, 256)).choices]
        [('0', 'linear_relu')]
    """

    _stock_forward = stock_method(nn.Sequential.forward)

    def forward(self, input):
        return self._stock_forward(input) if is_scripting() else self._join(input)

    def _join(self, input: Tensor) -> Tensor:
        if type(self).__iter__ is not nn.Sequential.__iter__ or _watches_all():
            return super().forward(input)
        joins = type(input) not in PLAIN or _may_join(input)
        layers, ahead = iter(self), []
        while (layer := ahead.pop(0) if ahead else next(layers, _END)) is not _END:
            may_join = id(type(layer)) in _SERVED and (joins or _has_few_taps(layer)) and not _watched(layer)
            count = _together(input, layer, layers, ahead) if may_join else 1
            input = layer(input) if count == 1 else _served([layer, *ahead[: count - 1]], input)
            del ahead[: count - 1]
        return input


# Whether layers that one kernel could serve together are worth looking for: on a GPU that costs the host 10 us.
_GPU = Family("sequential", "cuda", APART, (APART, JOINED), "elements", gradient=NO_YES, captured=NO_YES)


def _may_join(x: Tensor) -> bool:
    return not _gpu.decides(x) or _gpu.route(_GPU, 2 if torch.is_grad_enabled() else 0, x.numel()) == JOINED


def _peek(layers: Iterator[nn.Module], ahead: list[nn.Module], index: int) -> nn.Module:
    """The next layer: read only if no user's code, which could replace it in this pass, runs before it."""
    while len(ahead) <= index:
        ahead.append(next(layers, _END))
    return ahead[index]


def _has_few_taps(layer: nn.Module) -> bool:
    """Whether a convolution joined to its ReLU and pooling wins on a GPU at almost every size."""
    return isinstance(layer, nn.Conv2d) and is_ever_ours_on_gpu(layer.weight)


def _together(input: Tensor, first: nn.Module, layers: Iterator[nn.Module], ahead: list[nn.Module]) -> int:
    """How many layers, from `first` on, one kernel serves together; none of them may be observed."""
    second = _peek(layers, ahead, 0)
    if type(second) is not nn.ReLU or type(input) not in PLAIN or _watched(second):
        return 1
    with_relu, with_pool = _SERVED[id(type(first))]
    if with_pool is not None:
        third = _peek(layers, ahead, 1)
        if id(type(third)) in _POOLS and not third.return_indices and not _watched(third):
            return 3
    return 1 if with_relu is None else 2


def _served(layers: list[nn.Module], input: Tensor) -> Tensor:
    first = layers[0]
    with_relu, with_pool = _SERVED[id(type(first))]
    with _choice.serving(first) if _choice.layers() else _NOBODY:
        return with_relu(first, input) if len(layers) == 2 else with_pool(first, input, layers[2])


def _watched(module: nn.Module) -> bool:
    """Whether somebody would miss a call of `module`: a hook, a forward of its own or its class's, a compiled one."""
    return (
        is_hooked(module, "torchext.explain")  # which asks _choice.serving instead
        or "forward" in module.__dict__
        or "_conv_forward" in module.__dict__
        or type(module).forward is not _FORWARDS[id(type(module))]
    )


def _watches_all() -> bool:
    """Whether somebody would miss a call of any layer: a mode, a hook on all, what calls them all replaced."""
    return bool(
        global_forward_hooks
        or global_forward_pre_hooks
        or global_backward_hooks
        or global_backward_pre_hooks
        or (not _is_compiling() and (_observers.why_seen() is not None or _is_patched()))
    )


def _is_patched() -> bool:
    return call_path() != _PATH or F.relu is not _RELU or Conv2d._conv_forward is not _CONV_FORWARD
