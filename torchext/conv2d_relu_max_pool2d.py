"""conv2d, ReLU and max-pooling as one op: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _route
from ._conv2d_plan import DIRECT, WANTS, is_single, out_size, pair, plan
from ._op import Function, define, twice_differentiable, wants_grad
from .conv2d import GEOMETRY, WANTED, conv2d_relu, empty_image, fake_gradients, module_arguments, recompute
from .max_pool2d import POOL_OPTIONS, PoolsAtItsEnd, max_pool2d, options_of

_POOL = "int[2] pool_kernel, int[2] pool_stride, int[2] pool_padding"


def pooled_size(size, kernel, stride, padding, ceil_mode):
    room = size + 2 * padding - kernel
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:  # the last window would start past the end
        return count - 1
    return count


def _fake(x, w, b, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding, ceil_mode):
    sizes = map(out_size, x.shape[2:], w.shape[2:], stride, padding, dilation)
    sizes = map(pooled_size, sizes, pool_kernel, pool_stride, pool_padding, (ceil_mode, ceil_mode))
    shape = (x.shape[0], w.shape[0], *sizes)
    return empty_image(x, w, shape), empty_image(x, w, shape, torch.uint8)


def _fake_backward(
    dy, offsets, x, w, stride, padding, dilation, groups, kernel, pool_stride, pool_padding, want_dx, want_dw, want_db
):
    return fake_gradients(x, w, want_dx, want_dw, want_db)


_forward = define(
    "conv2d_relu_max_pool2d",
    f"(Tensor x, Tensor w, Tensor? b, {GEOMETRY}, {_POOL}, bool ceil_mode) -> (Tensor, Tensor)",
    _fake,
)
_backward = define(
    "conv2d_relu_max_pool2d_backward",
    f"(Tensor dy, Tensor offsets, Tensor x, Tensor w, {GEOMETRY}, {_POOL}, {WANTED}) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)


def _stock(
    input, weight, bias, stride, padding, dilation, groups,
    pool_kernel_size, pool_stride, pool_padding, pool_dilation, pool_ceil_mode,
):  # fmt: skip
    y = F.relu(F.conv2d(input, weight, bias, stride, padding, dilation, groups))
    return F.max_pool2d(y, pool_kernel_size, pool_stride, pool_padding, pool_dilation, pool_ceil_mode)


class Conv2dReLUMaxPool2dFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b, geometry, pool, ceil_mode):
        y, offsets = _forward(x, w, b, *geometry, *pool, ceil_mode)
        ctx.save_for_backward(x, w, b, offsets)
        ctx.options = geometry, pool, ceil_mode
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, b, offsets = ctx.saved_tensors
        geometry, pool, ceil_mode = ctx.options
        if twice_differentiable():

            def stock(*xwb):
                return _stock(*xwb, *geometry, *pool, 1, ceil_mode)

            return *recompute(ctx, stock, x, w, b, dy), None, None
        need_dx, need_dw, need_db, *_ = ctx.needs_input_grad
        dx, dw, db = _backward(dy, offsets, x, w, *geometry, *pool, need_dx, need_dw, need_db)
        return dx if need_dx else None, dw if need_dw else None, db if need_db else None, None, None, None


_SHARED = 96 << 10  # bytes that a GPU block stages at most: kDirectShared in csrc/cuda
_DEPTH = 512  # taps times channels up to which we trust multiply-adds against a library's tensor cores; not measured


def _prefers_direct(x, w, geometry, windows) -> bool:
    """Whether the direct kernel serves it: on the CPU the measured rule, on a GPU where its smallest tile fits.

    That tile has one window's patch and the filters of 8 results, of one channel.
    """
    if x.is_cpu and _route._backend != "simt":
        return geometry[4] == DIRECT
    stride, _, dilation = geometry[:3]
    _, group_c, *taps = w.shape
    if _route.auto() and group_c * taps[0] * taps[1] > _DEPTH:
        return False
    rows, columns = (
        ((kernel + 1) // 2 * 2 - 1) * step + (count - 1) * apart + 1
        for kernel, step, count, apart in zip(windows[0], stride, taps, dilation)
    )
    elements = rows * (columns + 1) + 8 * (taps[0] * taps[1] + 1)
    return elements * (8 if x.dtype is torch.float64 else 4) <= _SHARED


_WANTS = WANTS + "; and a pooling window no larger than the padded result, padded by half of it at most"


def _pool_plan(kernel, stride, padding, dilation, ceil_mode, out):
    """(kernel, stride, padding) in pairs where our kernel serves this pooling of `out` results, else None."""
    kernel = pair(kernel)
    stride, padding, dilation = kernel if stride is None else pair(stride), pair(padding), pair(dilation)
    if None in (kernel, stride, padding) or dilation != (1, 1) or type(ceil_mode) is not bool:
        return None
    if min(*kernel, *stride) < 1 or kernel[0] * kernel[1] > 255:
        return None
    for i in (0, 1):
        if not 0 <= 2 * padding[i] <= kernel[i]:
            return None
        if pooled_size(out[i], kernel[i], stride[i], padding[i], ceil_mode) < 1:
            return None
    return kernel, stride, padding


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

    The map before pooling never reaches memory: backward has ``input``, ``weight`` and one byte for each result.
    Where our direct kernel does not serve the convolution, :func:`conv2d_relu` and max-pooling run one after the other.

    Args:
        input, weight, bias, stride, padding, dilation, groups: as :func:`conv2d` takes them.
        pool_kernel_size, pool_stride, pool_padding, pool_dilation, pool_ceil_mode: as
            :func:`torch.nn.functional.max_pool2d` takes them, without the prefix.

    Returns:
        ``[n, k, p, q]`` or ``[k, p, q]``, channels_last if ``input`` or ``weight`` is.

    Raises:
        RuntimeError: the shapes, dtypes, devices or options do not fit together.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.conv2d_relu_max_pool2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2), pool_kernel_size=2)
        tensor([[[[4.]]]])
    """
    pool = (pool_kernel_size, pool_stride, pool_padding, pool_dilation, pool_ceil_mode)
    if is_single(input, weight):
        options = dict(zip(POOL_OPTIONS, pool))
        args = input.unsqueeze(0), weight, bias, stride, padding, dilation, groups
        return conv2d_relu_max_pool2d(*args, **options).squeeze(0)
    geometry, out = plan(input, weight, bias, stride, padding, dilation, groups, pooled=True)
    windows = None if out is None else _pool_plan(*pool, out)
    if windows is None:
        why = geometry if out is None else "a pooling only stock takes"
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        options |= dict(zip(POOL_OPTIONS, pool))
        tensors = {"input": input, "weight": weight, "bias": bias}
        return _route.stock("conv2d_relu_max_pool2d", why, _WANTS, _stock, **tensors, **options)
    if not _prefers_direct(input, weight, geometry, windows):
        return max_pool2d(conv2d_relu(input, weight, bias, stride, padding, dilation, groups), *pool)
    _route.note("conv2d_relu_max_pool2d")
    if wants_grad(input, weight, bias):
        return Conv2dReLUMaxPool2dFunction.call(input, weight, bias, geometry[:4], windows, pool_ceil_mode)
    return _forward(input, weight, bias, *geometry[:4], *windows, pool_ceil_mode)[0]


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

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _through_pool(self, input, weight, bias, self.pool_options())

    @staticmethod
    def serve(conv: nn.Conv2d, input: Tensor, pool: nn.MaxPool2d) -> Tensor:
        """What `conv`, a ReLU and `pool` give."""
        return _through_pool(conv, input, conv.weight, conv.bias, options_of(pool))
