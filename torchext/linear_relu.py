"""linear and linear_relu: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from . import _chains, _gpu, _gpu_library
from ._choice import MEASURED, note, note_ours
from ._counterpart import Counterpart
from ._gate import call_stock, drop_in
from ._linear_relu_route import CPU, LIBRARYS_PRODUCT, OUR_PRODUCT, on_cpu, on_gpu
from ._op import Function, define, either_wants_grad, twice_differentiable, wants_grad
from ._private import unsafe_view
from ._saved import keep, kept
from ._scripting import stock_method
from ._servable import PLAIN, auto, why_stock
from ._table import LIBRARY, NATIVE, STOCK


def _fake(x, w, b, algorithm):
    return x.new_empty(x.shape[0], w.shape[0])


def _fake_backward(dy, x, w, y, algorithm, want_dx, want_dw, want_db):
    return (
        x.new_empty(x.shape if want_dx else 0),
        x.new_empty(w.shape if want_dw else 0),
        x.new_empty(w.shape[0] if want_db else 0),
    )


_linear = define("linear", "(Tensor x, Tensor w, Tensor? b, int algorithm) -> Tensor", _fake)
_linear_relu = define("linear_relu", "(Tensor x, Tensor w, Tensor? b, int algorithm) -> Tensor", _fake)
_linear_backward = define(
    "linear_backward",
    "(Tensor dy, Tensor x, Tensor w, Tensor? y, int algorithm, bool want_dx, bool want_dw, bool want_db)"
    " -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)


def _rows(t):
    shape = t.shape
    return t.reshape(math.prod(shape[:-1]), shape[-1])  # of batches of gradients autograd knows no flatten


def _forward(op, x, w, b, algorithm):
    if x.dim() == 2:
        return op(x, w, b, algorithm)
    return unsafe_view(op(_rows(x), w, b, algorithm), (*x.shape[:-1], w.shape[0]))


def _backward(ctx, dy):
    x, w, y = kept(ctx, dy)
    if twice_differentiable():
        return _differentiable(ctx, dy, x, w, y)
    need_dx, need_dw, need_db, _ = ctx.needs_input_grad
    if x.dim() == 2:
        dx, dw, db = _linear_backward(dy, x, w, y, ctx.algorithm, need_dx, need_dw, need_db)
    else:
        y = y if y is None else _rows(y)
        dx, dw, db = _linear_backward(_rows(dy), _rows(x), w, y, ctx.algorithm, need_dx, need_dw, need_db)
        dx = dx.view(x.shape) if need_dx else dx
    return dx if need_dx else None, dw if need_dw else None, db if need_db else None


def _differentiable(ctx, dy, x, w, y):
    """The same in torch's ops, which have gradients of any order."""
    need_dx, need_dw, need_db, _ = ctx.needs_input_grad
    dz = dy if y is None else torch.ops.aten.threshold_backward(dy, y, 0)
    rows = _rows(dz)
    return dz @ w if need_dx else None, rows.t() @ _rows(x) if need_dw else None, rows.sum(0) if need_db else None


class LinearFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b, algorithm):
        keep(ctx, x, w, None)
        ctx.algorithm = algorithm
        return _forward(_linear, x, w, b, algorithm)

    @staticmethod
    def backward(ctx, dy):
        return *_backward(ctx, dy), None


class LinearReLUFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b, algorithm):
        y = _forward(_linear_relu, x, w, b, algorithm)
        keep(ctx, x, w, y)
        ctx.algorithm = algorithm
        return y

    @staticmethod
    def backward(ctx, dy):
        return *_backward(ctx, dy), None


# A function's name, whether it rectifies, stock's call, our op and its Function.
_PLAIN = "linear", 0, F.linear, _linear, LinearFunction
_RECTIFIED = "linear_relu", 1, _chains.linear_relu, _linear_relu, LinearReLUFunction


_WANTS = "input [..., k], weight [n, k] and bias [n] or None, of one floating dtype and one device"
_NAMES = "input", "weight", "bias"


def _why_stock(x, w, b) -> str | None:
    why = why_stock("linear_relu", x, w, b)
    if why is not None:
        return why
    if torch.is_autocast_enabled("cpu" if x.is_cpu else "cuda"):
        return "under autocast"
    if w is None:
        return "arguments only stock takes"
    x_shape, w_shape = x.shape, w.shape
    if len(w_shape) != 2 or not x_shape or x_shape[-1] != w_shape[1]:
        return "shapes only stock takes"
    if b is not None and (b.dim() != 1 or b.numel() != w_shape[0]):
        return "shapes only stock takes"
    return None


def _serve(kind, x, w, b) -> Tensor:
    op, relu, stock, forward, function = kind
    route, decided, gradient = NATIVE, None, False
    if type(w) in PLAIN:
        gradient = either_wants_grad(x, w)
        if auto():
            if x.is_cuda:
                return _serve_gpu(kind, x, w, b, gradient)
            decided = on_cpu(x, w, relu, gradient)
            if decided is not None:
                route = CPU.route(decided[1], decided[2])
                if route == STOCK:
                    return call_stock(op, MEASURED, decided, _WANTS, stock, _NAMES, x, w, b)
    why = _why_stock(x, w, b)
    if why is not None:
        return call_stock(op, why, None, _WANTS, stock, _NAMES, x, w, b)
    note_ours(op, "linear_relu", x, decided)
    algorithm = LIBRARYS_PRODUCT if route == LIBRARY else OUR_PRODUCT
    if gradient or wants_grad(b):
        return function.call(x, w, b, algorithm)
    return _forward(forward, x, w, b, algorithm)


def _serve_gpu(kind, x, w, b, gradient) -> Tensor:
    """What "auto" takes on a GPU."""
    op, relu, stock, forward, function = kind
    decided = on_gpu(x, w, relu, gradient)
    route = STOCK if decided is None else _gpu.route(*decided)
    if route == LIBRARY and relu:
        y = _gpu_library.linear_relu(x, w, b)
        if y is not None:
            note(op, "library", decided=decided)
            return y
    if route in (STOCK, LIBRARY) or _why_stock(x, w, b) is not None:
        return call_stock(op, MEASURED, decided, _WANTS, stock, _NAMES, x, w, b)
    note_ours(op, "linear_relu", x, decided)
    return function.call(x, w, b, OUR_PRODUCT) if gradient or wants_grad(b) else _forward(forward, x, w, b, OUR_PRODUCT)


@drop_in(F.linear, _WANTS)
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
    return _serve(_PLAIN, input, weight, bias)


@drop_in(_chains.linear_relu, _WANTS)
def linear_relu(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Affine map and ReLU in one pass, :math:`y = \max(x W^T + b, 0)`. Counterpart of ``F.relu(F.linear(...))``.

    Takes, returns and raises what :func:`linear` does. Backward masks the gradient and sums the bias gradient in one
    pass; it saves the result, ``input`` for the gradient of ``weight`` and ``weight`` for that of ``input``.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.linear_relu(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        tensor([[0., 3.]])
    """
    return _serve(_RECTIFIED, input, weight, bias)


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
