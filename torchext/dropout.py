"""dropout and alpha_dropout: schema, fake, Function, function, module. The channel forms are in dropout_channels.py."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from . import _gpu
from ._choice import MEASURED, note_ours
from ._counterpart import Counterpart
from ._dropout_route import CPU, on_cpu, on_gpu
from ._gate import call_stock, drop_in
from ._op import Function, define, twice_differentiable, wants_grad
from ._private import is_view
from ._scripting import stock_method
from ._servable import PLAIN, auto, why_stock
from ._shapes import empty_dropped
from ._table import NATIVE, STOCK


def _fake(x, seed, p, scale, shift, fill):
    return empty_dropped(x, fill)


def _fake_(x, seed, p, scale, shift, fill):
    return None


_OPTIONS = "Tensor seed, float p, float scale, float shift, float fill"
# kept: x * scale + shift; dropped: x * 0 + fill. What is kept depends on seed, p and the place in the result's memory.
dropped = define("dropout", f"(Tensor x, {_OPTIONS}) -> Tensor", _fake)
_dropout_ = define("dropout_", f"(Tensor(a!) x, {_OPTIONS}) -> ()", _fake_)


def draw_seed(x: Tensor) -> Tensor:
    """A seed from torch's generator, on x's device: it obeys manual_seed, fork_rng and checkpointing."""
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device=x.device)


class DropoutFunction(Function):
    """Saves the seed alone: backward draws the mask again, in the order of y's memory, so dy is brought into it."""

    @staticmethod
    def forward(ctx, x, seed, p, scale, shift, fill):
        y = dropped(x, seed, p, scale, shift, fill)
        ctx.save_for_backward(seed)
        ctx.p, ctx.scale, ctx.stride = p, scale, y.stride()
        return y

    @staticmethod
    def backward(ctx, dy):
        (seed,) = ctx.saved_tensors
        if twice_differentiable():
            ones = torch.empty_strided(dy.shape, ctx.stride, dtype=dy.dtype, device=dy.device).fill_(1)
            return dy * dropped(ones, seed, ctx.p, ctx.scale, 0.0, 0.0), None, None, None, None, None
        if dy.stride() != ctx.stride:
            dy = dy.new_empty_strided(dy.shape, ctx.stride).copy_(dy)
        return dropped(dy, seed, ctx.p, ctx.scale, 0.0, 0.0), None, None, None, None, None


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
    return dropped(x, draw_seed(x), p, scale, shift, fill)


WANTS = "input of a floating dtype and p between 0 and 1"
NAMES = "input", "p", "training", "inplace"
NOT_TRAINING = "not training: the input itself"


def why_stocks(x: Tensor, p: float, training: bool, inplace: bool) -> str | None:
    """Why a call in training is stock's; None if our kernel can serve it."""
    if type(training) is not bool or type(inplace) is not bool:
        return "flags only stock takes"
    why = why_stock("dropout", x)
    if why is not None:
        return why
    if not isinstance(p, float) or not 0.0 < p < 1.0:
        return "no mask to draw: p is not strictly between 0 and 1"
    if x.numel() == 0:
        return "no elements"
    if inplace and not torch.compiler.is_compiling() and x.is_inference():
        return "an inference tensor in place"
    return None


def decide(x: Tensor, draws: int, channels: bool):
    """The row of the table that decides on this call and its route; None and ours where it has no say."""
    if type(x) not in PLAIN or not auto():
        return None, NATIVE
    if x.is_cuda:
        decided = on_gpu(x, draws, channels)
        return decided, STOCK if decided is None else _gpu.route(*decided)
    decided = None if torch.compiler.is_compiling() else on_cpu(x, draws, channels, wants_grad(x))
    return decided, NATIVE if decided is None else CPU.route(decided[1], decided[2])


def _quick(x, p, training, inplace):
    """torch.dropout where F.dropout has nothing to look at, or itself."""
    plain = type(x) is Tensor and type(p) in (float, int) and not inplace and 0.0 <= p <= 1.0
    return torch.dropout(x, p, training) if plain else F.dropout(x, p, training, inplace)


def _serve(op, stock, input, p, training, inplace, coefficients):
    if training is False:
        return call_stock(op, NOT_TRAINING, None, WANTS, stock, NAMES, input, p, training, inplace)
    decided, route = decide(input, input.numel(), False)
    why = MEASURED if route == STOCK else why_stocks(input, p, training, inplace)
    if why is not None:
        return call_stock(op, why, decided, WANTS, stock, NAMES, input, p, training, inplace)
    note_ours(op, "dropout", input, decided)
    return (_in_place if inplace else _out_of_place)(input, p, *coefficients(p))


def _coefficients(p: float) -> tuple[float, float, float]:
    return 1 / (1 - p), 0.0, 0.0


def alpha_coefficients(p: float) -> tuple[float, float, float]:
    """scale, shift and fill that keep mean 0 and variance 1 where dropped units take SELU's lower limit."""
    alpha = 1.7580993408473766
    scale = 1 / math.sqrt((alpha * alpha * p + 1) * (1 - p))
    return scale, alpha * scale * p, alpha * scale * (p - 1)


@drop_in(F.dropout, WANTS)
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
    return _serve("dropout", _quick, input, p, training, inplace, _coefficients)


@drop_in(F.alpha_dropout, WANTS)
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
    return _serve("alpha_dropout", F.alpha_dropout, input, p, training, inplace, alpha_coefficients)


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
