"""conv2d and conv2d_relu: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from . import _chains, _conv2d_plan, _gpu, _gpu_library
from ._choice import MEASURED, note, note_ours
from ._conv2d_plan import BY_WINOGRAD, LIBRARYS, NAMES, WANTS, decide, is_single, plan
from ._conv2d_route import GPU, RELU_GPU
from ._counterpart import Counterpart
from ._gate import call_stock, drop_in
from ._op import Function, define, twice_differentiable, wants_grad
from ._private import conv_forward, padding_around
from ._saved import keep, kept
from ._scripting import stock_method
from ._servable import auto
from ._shapes import convolved_sizes, empty_gradients, empty_image
from ._table import LIBRARY, STOCK, WINOGRAD

GEOMETRY = "int[2] stride, int[2] padding, int[2] dilation, int groups"
WANTED = "bool want_dx, bool want_dw, bool want_db"


def _fake(x, w, b, stride, padding, dilation, groups, algorithm):
    sizes = convolved_sizes(x, w, stride, padding, dilation)
    return empty_image(x, w, (x.shape[0], w.shape[0], *sizes))


def _fake_backward(dy, x, w, y, stride, padding, dilation, groups, algorithm, want_dx, want_dw, want_db):
    return empty_gradients(x, w, want_dx, want_dw, want_db)


_conv2d = define("conv2d", f"(Tensor x, Tensor w, Tensor? b, {GEOMETRY}, int algorithm) -> Tensor", _fake)
conv2d_relu_forward = define(
    "conv2d_relu", f"(Tensor x, Tensor w, Tensor? b, {GEOMETRY}, int algorithm) -> Tensor", _fake
)
_conv2d_backward = define(
    "conv2d_backward",
    f"(Tensor dy, Tensor x, Tensor w, Tensor? y, {GEOMETRY}, int algorithm, {WANTED}) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)


def bias_gradient(dz):
    return dz.sum((0, 2, 3))


def gradients(needed, op, op_arguments, w, dz):
    """What `op` gives of the gradients `needed`. A bias's alone, or beside dx, is the sum of dz(): our kernels make it
    with dw, and of the x that dw keeps.
    """
    need_dx, need_dw, need_db = needed
    dx, dw, db = op(*op_arguments, need_dx, need_dw, need_db and need_dw)
    if need_db and not need_dw:
        db = bias_gradient(dz())
    dw = _in_strides_of(w, dw) if need_dw else None
    return dx if need_dx else None, dw, db if need_db else None


def differentiable_gradients(needed, dz, x, w, stride, padding, dilation, groups, *_):
    """The same in torch's ops, which have gradients of any order."""
    need_dx, need_dw, need_db = needed
    mask = [need_dx, need_dw, False]
    options = None, stride, padding, dilation, False, [0, 0], groups
    dx, dw, _ = torch.ops.aten.convolution_backward(dz, x, w, *options, mask) if need_dx or need_dw else (None,) * 3
    return dx, dw, bias_gradient(dz) if need_db else None


def _in_strides_of(w, dw):
    """dw in the strides that w has where a size of 1 leaves them open, for DDP, which compares them all."""
    strides = w.stride()
    if dw.stride() == strides:
        return dw
    _, c, r, s = w.shape
    if c > 1 and r * s > 1:
        return dw
    dense = w.is_contiguous() or w.is_contiguous(memory_format=torch.channels_last)
    return dw.as_strided(w.shape, strides) if dense else dw


def _backward(ctx, dy):
    x, w, y = kept(ctx, dy)
    dz = lambda: dy if y is None else torch.ops.aten.threshold_backward(dy, y, 0)
    needed = ctx.needs_input_grad[:3]
    if twice_differentiable():
        return *differentiable_gradients(needed, dz(), x, w, *ctx.geometry), None
    return *gradients(needed, _conv2d_backward, (dy, x, w, y, *ctx.geometry), w, dz), None


class Conv2dFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b, geometry):
        keep(ctx, x, w, None)
        ctx.geometry = geometry
        return _conv2d(x, w, b, *geometry)

    @staticmethod
    def backward(ctx, dy):
        return _backward(ctx, dy)


class Conv2dReLUFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b, geometry):
        y = conv2d_relu_forward(x, w, b, *geometry)
        keep(ctx, x, w, y)
        ctx.geometry = geometry
        return y

    @staticmethod
    def backward(ctx, dy):
        return _backward(ctx, dy)


# A function's name, stock's call, our op, its Function and its rows on a GPU.
_PLAIN = "conv2d", F.conv2d, _conv2d, Conv2dFunction, GPU
_RECTIFIED = "conv2d_relu", _chains.conv2d_relu, conv2d_relu_forward, Conv2dReLUFunction, RELU_GPU


def _serve(kind, x, w, b, *options) -> Tensor:
    op, stock, forward, function, of_gpu = kind
    if is_single(x, w) and not _gpu.decides(x):
        return _serve(kind, x.unsqueeze(0), w, b, *options).squeeze(0)
    decided, route = decide(x, w, options, of_gpu)
    if route == LIBRARY and of_gpu is RELU_GPU:
        y = _gpu_library.conv2d_relu(x, w, b, *options)
        if y is not None:
            note(op, "library", decided=decided)
            return y
    found = MEASURED if route in (STOCK, LIBRARY) else plan("conv2d", x, w, b, *options)
    if type(found) is str:
        return call_stock(op, found, decided, WANTS, stock, NAMES, x, w, b, *options)
    by = BY_WINOGRAD if route == WINOGRAD else _conv2d_plan.algorithm(x, w, found)
    if by == LIBRARYS and auto():
        return call_stock(op, "an image too large for our kernel", None, WANTS, stock, NAMES, x, w, b, *options)
    note_ours(op, "conv2d", x, decided)
    if wants_grad(x, w, b):
        return function.call(x, w, b, (*found.geometry, by))
    return forward(x, w, b, *found.geometry, by)


@drop_in(F.conv2d, WANTS)
def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1, groups=1
) -> Tensor:
    r"""Two-dimensional convolution. Counterpart of :func:`torch.nn.functional.conv2d`.

    Args:
        input: ``[n, c, h, w]`` or ``[c, h, w]``; float64, float32, bfloat16 or float16 for our kernel, else stock's.
        weight: ``[k, c / groups, r, s]``.
        bias: ``[k]``, or None.
        stride, padding, dilation: an int, or one for rows and one for columns; padding may be "same" or "valid".
        groups: how many groups the channels fall into, each convolved on its own.

    Returns:
        ``[n, k, p, q]`` or ``[k, p, q]``, channels_last if ``input`` or ``weight`` is; in float64 on a GPU that is
        left to stock, whose result is contiguous.

    Raises:
        RuntimeError: the shapes, dtypes, devices or options do not fit together.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2))
        tensor([[[[4., 4.],
                  [4., 4.]]]])
    """
    return _serve(_PLAIN, input, weight, bias, stride, padding, dilation, groups)


@drop_in(_chains.conv2d_relu, WANTS)
def conv2d_relu(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1, groups=1
) -> Tensor:
    r"""Two-dimensional convolution and ReLU in one pass. Counterpart of ``F.relu(F.conv2d(...))``.

    Takes, returns and raises what :func:`conv2d` does. It saves the result, ``input`` for the gradient of ``weight``
    and ``weight`` for that of ``input``.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.conv2d_relu(-torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 3))
        tensor([[[[0.],
                  [0.]]]])
    """
    return _serve(_RECTIFIED, input, weight, bias, stride, padding, dilation, groups)


def module_arguments(module: nn.Conv2d, input: Tensor) -> tuple:
    """The input, padded where the module's padding is no zeros, and the options that remain, as nn.Conv2d has them."""
    padding = module.padding
    if module.padding_mode != "zeros":
        input = F.pad(input, padding_around(module), mode=module.padding_mode)
        padding = 0
    return input, (module.stride, padding, module.dilation, module.groups)


class Conv2d(nn.Conv2d, metaclass=Counterpart):
    """:class:`torch.nn.Conv2d` on our kernels: same arguments, parameters, state_dict and repr; see :func:`conv2d`.

    Example:
        >>> from torchext import nn
        >>> nn.Conv2d(1, 6, 5)(torch.ones(2, 1, 28, 28)).shape
        torch.Size([2, 6, 24, 24])
    """

    _stock_conv_forward = stock_method(conv_forward)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if is_scripting():
            return self._stock_conv_forward(input, weight, bias)
        if self.padding_mode == "zeros":
            return conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        input, options = module_arguments(self, input)
        return conv2d(input, weight, bias, *options)


class ConvReLU2d(nn.Conv2d):
    """``ReLU(Conv2d(x))`` in one layer: :class:`torch.nn.Conv2d`'s arguments and state_dict; see :func:`conv2d_relu`.

    Example:
        >>> from torchext import nn
        >>> bool((nn.ConvReLU2d(1, 6, 5)(torch.randn(2, 1, 28, 28)) >= 0).all())
        True
    """

    _stock_conv_forward = stock_method(conv_forward)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if is_scripting():
            return F.relu(self._stock_conv_forward(input, weight, bias))
        input, options = module_arguments(self, input)
        return conv2d_relu(input, weight, bias, *options)

    def forward(self, input: Tensor) -> Tensor:  # torch's own need not call what is private to it
        return self._conv_forward(input, self.weight, self.bias)

    @staticmethod
    def serve(conv: nn.Conv2d, input: Tensor) -> Tensor:
        """What `conv` and a ReLU give."""
        return ConvReLU2d._conv_forward(conv, input, conv.weight, conv.bias)
