"""linear and linear_relu: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from . import _C, _chains, _gpu_library, _gpu_route, _route
from ._counterpart import Counterpart
from ._op import Function, define, twice_differentiable, wants_grad
from ._private import unsafe_view
from ._route import PLAIN
from ._saved import keep, kept
from ._scripting import stock_method


def _fake(x, w, b):
    return x.new_empty(x.shape[0], w.shape[0])


def _fake_backward(dy, x, w, y, want_dx, want_dw, want_db):
    return (
        x.new_empty(x.shape if want_dx else 0),
        x.new_empty(w.shape if want_dw else 0),
        x.new_empty(w.shape[0] if want_db else 0),
    )


_linear = define("linear", "(Tensor x, Tensor w, Tensor? b) -> Tensor", _fake)
_linear_relu = define("linear_relu", "(Tensor x, Tensor w, Tensor? b) -> Tensor", _fake)
_linear_backward = define(
    "linear_backward",
    "(Tensor dy, Tensor x, Tensor w, Tensor? y, bool want_dx, bool want_dw, bool want_db) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)


_stock_linear = F.linear


def _rows(t):
    shape = t.shape
    return t.reshape(math.prod(shape[:-1]), shape[-1])  # of batches of gradients autograd knows no flatten


def _forward(op, x, w, b):
    if x.dim() == 2:
        return op(x, w, b)
    return unsafe_view(op(_rows(x), w, b), (*x.shape[:-1], w.shape[0]))


def _backward(ctx, dy):
    x, w, y = kept(ctx, dy)
    if twice_differentiable():
        return _differentiable(ctx, dy, x, w, y)
    need_dx, need_dw, need_db = ctx.needs_input_grad
    if x.dim() == 2:
        dx, dw, db = _linear_backward(dy, x, w, y, need_dx, need_dw, need_db)
    else:
        y = y if y is None else _rows(y)
        dx, dw, db = _linear_backward(_rows(dy), _rows(x), w, y, need_dx, need_dw, need_db)
        dx = dx.view(x.shape) if need_dx else dx
    return dx if need_dx else None, dw if need_dw else None, db if need_db else None


def _differentiable(ctx, dy, x, w, y):
    """The same in torch's ops, which have gradients of any order."""
    need_dx, need_dw, need_db = ctx.needs_input_grad
    dz = dy if y is None else torch.ops.aten.threshold_backward(dy, y, 0)
    rows = _rows(dz)
    return dz @ w if need_dx else None, rows.t() @ _rows(x) if need_dw else None, rows.sum(0) if need_db else None


class LinearFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b):
        keep(ctx, x, w, None)
        return _forward(_linear, x, w, b)

    @staticmethod
    def backward(ctx, dy):
        return _backward(ctx, dy)


class LinearReLUFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b):
        y = _forward(_linear_relu, x, w, b)
        keep(ctx, x, w, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        return _backward(ctx, dy)


_WANTS = "input [..., k], weight [n, k] and bias [n] or None, of one floating dtype and one device"


# Without ReLU there is nothing to fuse: up to so many multiply-adds stock's single C++ call is the faster one, forward
# and backward. Ours takes 0.91 of stock's speed at (4, 4)->4, 1.01 at (64, 84)->10; but one small layer of ours amid
# stock's finds no code of its own in the caches and takes 60 us for stock's 12, at (64, 64)->12. Of 16-bit types with
# AVX2, where stock is 4 to 30 times slower, 1.0 at (4, 4)->4. On Zen 4, where MKL's products are at the core's peak,
# ours of more than 16 columns win nothing before batches of 512: the autoencoder's step is 3 % longer with them.
_SMALL, _WIDE = 1 << 16, 16
# With ReLU and without gradient, with only two short calls to save, 0.86 at (32, 64)->64 and 0.95 at (64, 84)->64.
_SMALL_RELU = 1 << 18
_SMALL_WIDE = 1 << 23 if _C is not None and _C.cpu_is_zen4() else _SMALL
_SMALL_HALF = 1 << 8 if _C is not None and _C.cpu_isa() == "avx2" else 1 << 17
# With ReLU or without, one row of x is a product of a matrix and a vector, for which ours packs the matrix first: 0.4
# at (1, 1024)->1024, 1.6 from two rows on. And in 16 bits with AVX-512 a large product is the library's, which stock
# calls without a detour: 0.95 at (100, 784)->500.
_SMALL_MATRIX = 1 << 14
_LARGE_HALF = 1 << 21 if _C is not None and _C.cpu_isa() == "avx512" else 1 << 62
_WHY_STOCK = "stock measured faster at this size"


def _stock_is_faster(x, w, relu) -> bool:
    if type(x) not in PLAIN or type(w) not in PLAIN or not _route.auto():
        return False
    if x.is_cuda:
        return True
    shape = w.shape
    if len(shape) != 2:
        return False
    columns, depth = shape
    size, dtype = x.numel(), x.dtype
    work, wide = size * columns, dtype is torch.float32 or dtype is torch.float64
    if relu:
        small = work <= _SMALL_RELU and not wants_grad(x, w)
    else:
        small = work <= (_SMALL_HALF if not wide else _SMALL_WIDE if columns > _WIDE else _SMALL)
    if small:
        return True
    return (size == depth and depth * columns > _SMALL_MATRIX) or (not wide and work > _LARGE_HALF)


def _at_once(op, stock, input, weight, bias) -> Tensor:
    """`_route.stock` without its keywords, which take 1 us of calls that take 50."""
    _route.note(op, "stock", _gpu_route.WHY if input.is_cuda else _WHY_STOCK)
    try:
        return stock(input, weight, bias)
    except RuntimeError as error:
        raise _route.refusal(op, _WANTS, error, input=input, weight=weight, bias=bias) from None


def _why_stock(x, w, b) -> str | None:
    why = _route.why_stock("linear_relu", x, w, b)
    if why is not None:
        return why
    if torch.is_autocast_enabled("cpu" if x.is_cpu else "cuda"):
        return "under autocast"
    if not x.is_cpu and _route.auto():
        return _gpu_route.WHY
    if w is None:
        return "arguments only stock takes"
    x_shape, w_shape = x.shape, w.shape
    if len(w_shape) != 2 or not x_shape or x_shape[-1] != w_shape[1]:
        return "shapes only stock takes"
    if b is not None and (b.dim() != 1 or b.numel() != w_shape[0]):
        return "shapes only stock takes"
    return None


@_route.drop_in(F.linear, _WANTS)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Affine map, :math:`y = x W^T + b`. Counterpart of :func:`torch.nn.functional.linear`.

    Args:
        input: :math:`x`, ``[..., k]``; float64, float32, bfloat16 or float16 for our kernel, else stock's.
        weight: :math:`W`, ``[n, k]``.
        bias: :math:`b`, ``[n]``, or None.

    Returns:
        :math:`y`, ``[..., n]``, contiguous.

    Raises:
        RuntimeError: the shapes, dtypes or devices do not fit together.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, -1.0]]))
        tensor([[-1.]])
    """
    if _stock_is_faster(input, weight, relu=False):
        return _at_once("linear", _stock_linear, input, weight, bias)
    why = _why_stock(input, weight, bias)
    if why is not None:
        return _route.stock("linear", why, _WANTS, F.linear, input=input, weight=weight, bias=bias)
    _route.note_ours("linear", "linear_relu", input)
    if wants_grad(input, weight, bias):
        return LinearFunction.call(input, weight, bias)
    return _forward(_linear, input, weight, bias)


@_route.drop_in(_chains.linear_relu, _WANTS)
def linear_relu(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Affine map and ReLU in one pass, :math:`y = \max(x W^T + b, 0)`. Counterpart of ``F.relu(F.linear(...))``.

    Takes, returns and raises what :func:`linear` does. Backward masks the gradient and sums the bias gradient in one
    pass; it saves the result, ``input`` for the gradient of ``weight`` and ``weight`` for that of ``input``.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.linear_relu(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        tensor([[0., 3.]])
    """
    if _stock_is_faster(input, weight, relu=True):
        if input.is_cuda:
            y = _gpu_library.linear_relu(input, weight, bias)
            if y is not None:
                _route.note("linear_relu", "library")
                return y
        return _at_once("linear_relu", _chains.linear_relu, input, weight, bias)
    why = _why_stock(input, weight, bias)
    if why is not None:
        return _route.stock("linear_relu", why, _WANTS, _chains.linear_relu, input=input, weight=weight, bias=bias)
    _route.note_ours("linear_relu", "linear_relu", input)
    if wants_grad(input, weight, bias):
        return LinearReLUFunction.call(input, weight, bias)
    return _forward(_linear_relu, input, weight, bias)


class Linear(nn.Linear, metaclass=Counterpart):
    """:class:`torch.nn.Linear` on our kernels: same arguments, parameters, state_dict and repr; see :func:`linear`.

    Example:
        >>> from torchext import nn
        >>> nn.Linear(3, 4)(torch.ones(2, 3)).shape
        torch.Size([2, 4])
    """

    _stock_forward = stock_method(nn.Linear.forward)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._stock_forward(input)
        return linear(input, self.weight, self.bias)


class LinearReLU(nn.Linear):
    """``ReLU(Linear(x))`` in one layer: :class:`torch.nn.Linear`'s arguments and state_dict; see :func:`linear_relu`.

    Example:
        >>> from torchext import nn
        >>> bool((nn.LinearReLU(3, 4)(torch.randn(2, 3)) >= 0).all())
        True
    """

    _stock_forward = stock_method(nn.Linear.forward)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return F.relu(self._stock_forward(input))
        return linear_relu(input, self.weight, self.bias)
