"""conv2d, ReLU and max-pooling as one op: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from . import _chains, _conv2d_plan, _gpu
from ._choice import note_ours
from ._conv2d_plan import BY_WINOGRAD, WANTS, is_single, plan
from ._conv2d_relu_max_pool2d_plan import fits_direct, halves, windows_of
from ._conv2d_relu_max_pool2d_route import CPU, may_be_ours_on_gpu, on_cpu, on_gpu
from ._conv2d_route import gradient_of
from ._gate import call_stock, drop_in
from ._max_pool2d_backward import put
from ._op import Function, define, twice_differentiable, wants_grad
from ._private import conv_forward
from ._saved import keep, kept
from ._scripting import stock_method
from ._servable import PLAIN, auto
from ._shapes import (
    DEAD,
    POOL_OPTIONS,
    WINDOW_PAIRS,
    convolved_sizes,
    empty_gradients,
    empty_image,
    is_channels_last,
    pooled_sizes,
)
from ._table import APART, DIRECT, WINOGRAD
from .conv2d import (
    GEOMETRY,
    WANTED,
    conv2d_relu,
    conv2d_relu_forward,
    differentiable_gradients,
    gradients,
    module_arguments,
)
from .max_pool2d import PoolsAtItsEnd, max_pool2d, options_of, pool_forward


def _fake(x, w, b, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding, ceil_mode):
    sizes = convolved_sizes(x, w, stride, padding, dilation)
    sizes = pooled_sizes(sizes, pool_kernel, pool_stride, pool_padding, ceil_mode)
    shape = (x.shape[0], w.shape[0], *sizes)
    return empty_image(x, w, shape), empty_image(x, w, shape, torch.uint8)


def _fake_backward(dy, offsets, x, w, *options):
    return empty_gradients(x, w, *options[-3:])


_forward = define(
    "conv2d_relu_max_pool2d",
    f"(Tensor x, Tensor w, Tensor? b, {GEOMETRY}, {WINDOW_PAIRS}, bool ceil_mode) -> (Tensor, Tensor)",
    _fake,
)
_backward = define(
    "conv2d_relu_max_pool2d_backward",
    f"(Tensor dy, Tensor offsets, Tensor x, Tensor w, {GEOMETRY}, {WINDOW_PAIRS}, {WANTED})"
    " -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)


def _stock(
    input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1,
    *, pool_kernel_size, pool_stride=None, pool_padding=0, pool_dilation=1, pool_ceil_mode=False,
):  # fmt: skip
    y = _chains.conv2d_relu(input, weight, bias, stride, padding, dilation, groups)
    return F.max_pool2d(y, pool_kernel_size, pool_stride, pool_padding, pool_dilation, pool_ceil_mode)


class Conv2dReLUMaxPool2dFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b, geometry, pool, ceil_mode):
        y, offsets = _forward(x, w, b, *geometry, *pool, ceil_mode)
        keep(ctx, x, w, offsets)
        ctx.geometry, ctx.pool = geometry, pool
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, offsets = kept(ctx, dy)
        needed, geometry, pool = ctx.needs_input_grad[:3], ctx.geometry, ctx.pool
        if twice_differentiable():
            size = convolved_sizes(x, w, *geometry[:3])
            options = is_channels_last(offsets), *size, (*itertools.chain(*pool), 1, 1)
            return *differentiable_gradients(needed, put(dy, offsets, options), x, w, *geometry), None, None, None
        arguments = dy, offsets, x, w, *geometry, *pool
        dz = lambda: dy.masked_fill(offsets == DEAD, 0)
        return *gradients(needed, _backward, arguments, w, dz), None, None, None


class Conv2dReLUMaxPool2dByWinogradFunction(Conv2dReLUMaxPool2dFunction):
    """Forward by Winograd's convolution and a pooling, backward from the winners of the windows."""

    @staticmethod
    def forward(ctx, x, w, b, geometry, pool, ceil_mode):
        z = conv2d_relu_forward(x, w, b, *geometry, BY_WINOGRAD)
        size = pooled_sizes(z.shape[2:], *pool, ceil_mode)
        y, offsets = pool_forward(z, is_channels_last(z), True, *size, *itertools.chain(*pool), 1, 1)
        # DEAD where ReLU stopped it, which pooling's own do not tell: in a third of masked_fill_'s time.
        offsets.bitwise_or_((y <= 0).view(torch.uint8).mul_(DEAD))
        keep(ctx, x, w, offsets)
        ctx.geometry, ctx.pool = geometry, pool
        return y


_WANTS = WANTS + "; and a pooling window no larger than the padded result, padded by half of it at most"
_NAMES = *_conv2d_plan.NAMES, *POOL_OPTIONS


def _by_position(x, w, b, stride, padding, dilation, groups, *pool):
    return _stock(x, w, b, stride, padding, dilation, groups, **dict(zip(POOL_OPTIONS, pool)))


def _ask(x, w, options):
    """The row that decides, and its route; no route where the table has no say, or a GPU's wants the plan."""
    if type(x) not in PLAIN or type(w) not in PLAIN or w.is_nested or not auto():
        return None, None
    if x.is_cuda:
        return None, APART if x.dim() == 4 and w.dim() == 4 and not may_be_ours_on_gpu(x, w) else None
    decided = on_cpu(x, w, *options, gradient_of(x, w))
    return decided, None if decided is None else CPU.route(decided[1], decided[2])


def _ask_again(x, w, found):
    """The same with the plan; where speed does not decide, ours."""
    if not auto():
        return None, _OURS.get(_conv2d_plan.algorithm(x, w, found), APART)
    decided = on_gpu(x, w, x.shape[0] * w.shape[0] * math.prod(found.out))
    return decided, APART if decided is None else _gpu.convolution_route(*decided)


def _fits(route, x, w, found, windows, ceil_mode, gradient) -> bool:
    if route == WINOGRAD:
        return gradient and halves(windows, found.out, ceil_mode)
    return route != APART and fits_direct(x, w, found, windows)


_OURS = {_conv2d_plan.DIRECTLY: DIRECT, BY_WINOGRAD: WINOGRAD}


@drop_in(_stock, _WANTS)
def conv2d_relu_max_pool2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    *,
    pool_kernel_size,
    pool_stride=None,
    pool_padding=0,
    pool_dilation=1,
    pool_ceil_mode=False,
) -> Tensor:
    r"""Convolution, ReLU and max-pooling in one pass. Counterpart of ``F.max_pool2d(F.relu(F.conv2d(...)), ...)``.

    The map before pooling never reaches memory: backward has one byte for each result, ``input`` for the gradient of
    ``weight`` and ``weight`` for that of ``input``.
    Where our direct kernel does not serve the convolution, :func:`conv2d_relu` and max-pooling run one after the other.

    Args:
        input, weight, bias, stride, padding, dilation, groups: as :func:`conv2d` takes them.
        pool_kernel_size, pool_stride, pool_padding, pool_dilation, pool_ceil_mode: as
            :func:`torch.nn.functional.max_pool2d` takes them, without the prefix.

    Returns:
        ``[n, k, p, q]`` or ``[k, p, q]``, channels_last if ``input`` or ``weight`` is; in float64 on a GPU that is
        left to stock, whose result is contiguous.

    Raises:
        RuntimeError: the shapes, dtypes, devices or options do not fit together.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.conv2d_relu_max_pool2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2), pool_kernel_size=2)
        tensor([[[[4.]]]])
    """
    options = stride, padding, dilation, groups
    pool = pool_kernel_size, pool_stride, pool_padding, pool_dilation, pool_ceil_mode
    if is_single(input, weight):
        arguments = input.unsqueeze(0), weight, bias, *options
        return conv2d_relu_max_pool2d(*arguments, **dict(zip(POOL_OPTIONS, pool))).squeeze(0).contiguous()
    decided, route = _ask(input, weight, options)
    if route == APART:
        return max_pool2d(conv2d_relu(input, weight, bias, *options), *pool)
    op, arguments = "conv2d_relu_max_pool2d", (input, weight, bias, *options, *pool)
    found = plan(op, input, weight, bias, *options)
    if type(found) is str:
        return call_stock(op, found, None, _WANTS, _by_position, _NAMES, *arguments)
    windows = windows_of(*pool, found.out)
    if windows is None:
        return call_stock(op, "a pooling only stock takes", None, _WANTS, _by_position, _NAMES, *arguments)
    gradient = wants_grad(input, weight, bias)
    if route is None:
        decided, route = _ask_again(input, weight, found)
    if not _fits(route, input, weight, found, windows, pool_ceil_mode, gradient):
        return max_pool2d(conv2d_relu(input, weight, bias, *options), *pool)
    note_ours(op, op, input, decided)
    arguments = input, weight, bias, found.geometry, windows, pool_ceil_mode
    if route == WINOGRAD:
        return Conv2dReLUMaxPool2dByWinogradFunction.call(*arguments)
    if gradient:
        return Conv2dReLUMaxPool2dFunction.call(*arguments)
    return _forward(input, weight, bias, *found.geometry, *windows, pool_ceil_mode)[0]


def _through_pool(module: nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None, pool: dict) -> Tensor:
    input, options = module_arguments(module, input)
    return conv2d_relu_max_pool2d(input, weight, bias, *options, **pool)


class ConvReLUMaxPool2d(PoolsAtItsEnd, nn.Conv2d):
    """``MaxPool2d(ReLU(Conv2d(x)))`` in one layer, with :class:`torch.nn.Conv2d`'s arguments and state_dict.

    The options of the pooling follow as keywords; see :func:`conv2d_relu_max_pool2d`.

    Example:
        >>> from torchext import nn
        >>> nn.ConvReLUMaxPool2d(1, 6, 5, pool_kernel_size=2)(torch.ones(2, 1, 28, 28)).shape
        torch.Size([2, 6, 12, 12])
    """

    _stock_conv_forward = stock_method(conv_forward)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if is_scripting():
            return self._pool(F.relu(self._stock_conv_forward(input, weight, bias)))
        return _through_pool(self, input, weight, bias, self.pool_options())

    def forward(self, input: Tensor) -> Tensor:  # torch's own need not call what is private to it
        return self._conv_forward(input, self.weight, self.bias)

    @staticmethod
    def serve(conv: nn.Conv2d, input: Tensor, pool: nn.MaxPool2d) -> Tensor:
        """What `conv`, a ReLU and `pool` give."""
        return _through_pool(conv, input, conv.weight, conv.bias, options_of(pool))
