"""dropout and alpha_dropout: schema, fake, Function, function, module. The channel forms are in dropout_channels.py."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from . import _gpu_route, _route
from ._counterpart import Counterpart
from ._op import Function, define, twice_differentiable, wants_grad
from ._private import is_view
from ._scripting import stock_method
from ._shapes import empty_dropped


def _fake(x, seed, p, scale, shift, fill):
    return empty_dropped(x, fill)


def _fake_(x, seed, p, scale, shift, fill):
    return None


_OPTIONS = "Tensor seed, float p, float scale, float shift, float fill"
# kept: x * scale + shift; dropped: x * 0 + fill. What is kept depends on seed, p and the place in the result's memory.
_dropout = define("dropout", f"(Tensor x, {_OPTIONS}) -> Tensor", _fake)
_dropout_ = define("dropout_", f"(Tensor(a!) x, {_OPTIONS}) -> ()", _fake_)


def draw_seed(x: Tensor) -> Tensor:
    """A seed from torch's generator, on x's device: it obeys manual_seed, fork_rng and checkpointing."""
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device=x.device)


class DropoutFunction(Function):
    """Saves the seed alone: backward draws the mask again, in the order of y's memory, so dy is brought into it."""

    @staticmethod
    def forward(ctx, x, seed, p, scale, shift, fill):
        y = _dropout(x, seed, p, scale, shift, fill)
        ctx.save_for_backward(seed)
        ctx.p, ctx.scale, ctx.stride = p, scale, y.stride()
        return y

    @staticmethod
    def backward(ctx, dy):
        (seed,) = ctx.saved_tensors
        if twice_differentiable():
            ones = torch.empty_strided(dy.shape, ctx.stride, dtype=dy.dtype, device=dy.device).fill_(1)
            return dy * _dropout(ones, seed, ctx.p, ctx.scale, 0.0, 0.0), None, None, None, None, None
        if dy.stride() != ctx.stride:
            dy = dy.new_empty_strided(dy.shape, ctx.stride).copy_(dy)
        return _dropout(dy, seed, ctx.p, ctx.scale, 0.0, 0.0), None, None, None, None, None


class DropoutInPlaceFunction(DropoutFunction):
    @staticmethod
    def forward(ctx, x, seed, p, scale, shift, fill):
        _dropout_(x, seed, p, scale, shift, fill)
        ctx.mark_dirty(x)
        ctx.save_for_backward(seed)
        ctx.p, ctx.scale, ctx.stride = p, scale, x.stride()
        return x


def _is_dense(x):
    dims = x.dim()
    return (
        x.is_contiguous()
        or (dims == 4 and x.is_contiguous(memory_format=torch.channels_last))
        or (dims == 5 and x.is_contiguous(memory_format=torch.channels_last_3d))
    )


def _in_place(x, p, scale, shift, fill):
    grad = wants_grad(x)
    # Leaves and views are autograd's to judge, before a byte is written; copy_ lets it.
    if torch.compiler.is_compiling() or not _is_dense(x) or (grad and (x.is_leaf or is_view(x))):
        return x.copy_(_out_of_place(x, p, scale, shift, fill))
    if grad:
        return DropoutInPlaceFunction.call(x, draw_seed(x), p, scale, shift, fill)
    _dropout_(x, draw_seed(x), p, scale, shift, fill)
    torch.autograd.graph.increment_version(x)
    return x


def _out_of_place(x, p, scale, shift, fill):
    if wants_grad(x):
        return DropoutFunction.call(x, draw_seed(x), p, scale, shift, fill)
    return _dropout(x, draw_seed(x), p, scale, shift, fill)


WANTS = "input of a floating dtype and p between 0 and 1"
SMALL = 1536  # draws: stock takes 5 to 12 ns for each, p near 0.1 or 0.5, but has no autograd.Function (15 us) to call
NOT_TRAINING, FASTER = "not training: the input itself", f"stock is the faster one below {SMALL} draws"


def why_stock(x: Tensor, p: float, training: bool, inplace: bool) -> str | None:
    """Why a call in training is stock's; None if our kernel can serve it."""
    if type(training) is not bool or type(inplace) is not bool:
        return "flags only stock takes"
    why = _route.why_stock("dropout", x)
    if why is not None:
        return why
    if not isinstance(p, float) or not 0.0 < p < 1.0:
        return "no mask to draw: p is not strictly between 0 and 1"
    if x.numel() == 0:
        return "no elements"
    if inplace and not torch.compiler.is_compiling() and x.is_inference():
        return "an inference tensor in place"
    return _gpu_route.WHY if _gpu_route.is_auto_on_gpu(x) and not _is_faster_on_gpu(x) else None


def _is_faster_on_gpu(x) -> bool:
    return _gpu_route.is_faster("dropout", "dropout", x.dtype, x.numel())


def _is_small(x) -> bool:
    if type(x) is not Tensor or torch.compiler.is_compiling() or not _route.auto():
        return False
    if x.is_cuda:
        return not _is_faster_on_gpu(x)
    return x.requires_grad and x.numel() < SMALL and torch.is_grad_enabled()


def why_small(x, training) -> str:
    """Why what :func:`_is_small` found, or evaluation, is stock's."""
    if training is False:
        return NOT_TRAINING
    return _gpu_route.WHY if x.is_cuda else FASTER


def alpha_coefficients(p: float) -> tuple[float, float, float]:
    """scale, shift and fill that keep mean 0 and variance 1 where dropped units take SELU's lower limit."""
    alpha = 1.7580993408473766
    scale = 1 / math.sqrt((alpha * alpha * p + 1) * (1 - p))
    return scale, alpha * scale * p, alpha * scale * (p - 1)


@_route.drop_in(F.dropout, WANTS)
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    r"""Zeroes each element with probability p, scales the others by 1 / (1 - p). Counterpart of
    :func:`torch.nn.functional.dropout`.

    The mask is a function of one seed drawn from torch's generator and of each element's place in memory, the same for
    any number of threads and on every device; it is not stock's mask. Only the seed is saved for backward.

    Args:
        input: any shape; float64, float32, bfloat16 or float16 for our kernel, else stock's.
        p: probability of an element to be zeroed, exact to 2^-33.
        training: return the input itself if False.
        inplace: overwrite the input.

    Returns:
        A tensor of the input's shape and memory format.

    Raises:
        ValueError: p is not between 0 and 1.
        RuntimeError: ``inplace`` on a tensor that must not be overwritten.

    Example:
        >>> from torchext.nn import functional as F
        >>> set(F.dropout(torch.ones(1000), p=0.5).tolist()) == {0.0, 2.0}
        True
    """
    if training is False or _is_small(input):
        _route.note("dropout", "stock", why_small(input, training))
        plain = type(input) is Tensor and not inplace and 0.0 <= p <= 1.0  # what F.dropout would look at first
        return torch.dropout(input, p, training) if plain else F.dropout(input, p, training, inplace)
    why = why_stock(input, p, training, inplace)
    if why is not None:
        return _route.stock("dropout", why, WANTS, F.dropout, input=input, p=p, training=training, inplace=inplace)
    _route.note_ours("dropout", "dropout", input)
    return (_in_place if inplace else _out_of_place)(input, p, 1 / (1 - p), 0.0, 0.0)


@_route.drop_in(F.alpha_dropout, WANTS)
def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    r"""Dropout that keeps mean 0 and variance 1, for use with SELU. Counterpart of
    :func:`torch.nn.functional.alpha_dropout`.

    Takes, returns and raises what :func:`dropout` does; ``training`` is False unless given, as in stock.

    Example:
        >>> from torchext.nn import functional as F
        >>> y = F.alpha_dropout(torch.randn(100_000), p=0.3, training=True)
        >>> abs(y.mean().item()) < 0.02 and abs(y.std().item() - 1) < 0.02
        True
    """
    if training is False or _is_small(input):
        _route.note("alpha_dropout", "stock", why_small(input, training))
        return F.alpha_dropout(input, p, training, inplace)
    why = why_stock(input, p, training, inplace)
    if why is not None:
        arguments = {"input": input, "p": p, "training": training, "inplace": inplace}
        return _route.stock("alpha_dropout", why, WANTS, F.alpha_dropout, **arguments)
    _route.note_ours("alpha_dropout", "dropout", input)
    return (_in_place if inplace else _out_of_place)(input, p, *alpha_coefficients(p))


class Dropout(nn.Dropout, metaclass=Counterpart):
    """:class:`torch.nn.Dropout` on our kernel: same arguments and repr; see :func:`dropout`.

    Example:
        >>> from torchext import nn
        >>> nn.Dropout(0.2).eval()(torch.ones(2))
        tensor([1., 1.])
    """

    _stock_forward = stock_method(nn.Dropout.forward)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._stock_forward(input)
        return dropout(input, self.p, self.training, self.inplace)


class AlphaDropout(nn.AlphaDropout, metaclass=Counterpart):
    """:class:`torch.nn.AlphaDropout` on our kernel; see :func:`alpha_dropout`. ``inplace`` is idle, as in stock."""

    _stock_forward = stock_method(nn.AlphaDropout.forward)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._stock_forward(input)
        return alpha_dropout(input, self.p, self.training)
