"""relu in functional style: of a convolution that nobody else can see, so that a pooling around it may go on as one.

``F.max_pool2d(F.relu(conv(x)), 2)`` leaves no name for what comes in between. Such a result is rectified in its own
memory, and its gradient need never exist: max_pool2d asks :func:`convolution_under` it. That nobody else can see a
tensor is told by counting references, as NumPy does for its temporaries, against counts taken at import: where an
interpreter does not tell an argument that has a name from one that has none, nothing is fused.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from . import _route
from ._counterpart import Counterpart
from ._scripting import stock_method
from .conv2d import Conv2dFunction

_is_compiling = torch.compiler.is_compiling
_saving_hooks = torch._C._autograd._top_saved_tensors_default_hooks
# What relu made last of a convolution that nobody else can see, and its version. Held weakly, and asked for at once.
_rectified: tuple[weakref.ref[Tensor], int] | None = None


class _Counts(nn.Module):
    def forward(self, input: object) -> int:
        return sys.getrefcount(input)


def _counts(input: object) -> int:
    return sys.getrefcount(input)


def _of_unseen(counts: Callable[[object], int]) -> int:
    """The references that `counts` finds to an argument without a name; 0 where a name makes no difference."""
    named = object()
    return counts(object()) if counts(named) > counts(object()) else 0


UNSEEN = _of_unseen(_counts)  # in a function
UNSEEN_BY_MODULE = _of_unseen(_Counts())  # in a module's forward


def _is_watched(t: Tensor) -> bool:
    """Whether somebody waits for the gradient of `t`, or for what is saved to make it."""
    return t._backward_hooks is not None or _saving_hooks(True) is not None


def _rectify(unseen: bool, input: Tensor, inplace: bool) -> Tensor:
    """unseen: whether `input` has no name."""
    global _rectified
    if (
        unseen
        and type(input) is Tensor
        and type(input.grad_fn) is Conv2dFunction._backward_cls
        and input.is_cpu
        and _route._backend in ("auto", "native")
        and not _is_watched(input)
    ):
        torch.relu_(input)
        _rectified = weakref.ref(input), input._version
        return input
    return F.relu(input, inplace)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    r"""Rectified linear unit, :math:`\max(x, 0)`. :func:`torch.nn.functional.relu` itself.

    Written into `input` also where nobody can tell: where it is the result of our :func:`conv2d` and has no name.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.relu(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    return _rectify(not _is_compiling() and sys.getrefcount(input) == UNSEEN, input, inplace)


class ReLU(nn.ReLU, metaclass=Counterpart):
    """:class:`torch.nn.ReLU`: same argument and repr; see :func:`relu`.

    Example:
        >>> from torchext import nn
        >>> nn.ReLU()(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    _stock_forward = stock_method(nn.ReLU.forward)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._stock_forward(input)
        return _rectify(not _is_compiling() and sys.getrefcount(input) == UNSEEN_BY_MODULE, input, self.inplace)


def convolution_under(unseen: bool, input: Tensor) -> Any:
    """The autograd node of the convolution whose result, rectified, `input` is; None if its gradient may be asked for.

    unseen: whether `input` has no name.
    """
    if not unseen or _rectified is None:
        return None
    last, version = _rectified
    if last() is not input or input._version != version or _is_watched(input):
        return None
    convolution = input.grad_fn.next_functions[0][0]
    return convolution if type(convolution) is Conv2dFunction._backward_cls else None
