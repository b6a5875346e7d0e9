"""max_pool2d: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from ._choice import MEASURED, note_ours
from ._counterpart import Counterpart
from ._gate import call_stock, drop_in
from ._max_pool2d_backward import pool_backward, pool_indices
from ._max_pool2d_plan import NAMES, WANTS, decide, plan_of
from ._op import Function, define, wants_grad
from ._scripting import stock_method
from ._shapes import POOL_OPTIONS, WINDOW, empty_maps, is_channels_last
from ._table import STOCK


def _fake(x, channels_last, want_offsets, oh, ow, *window):
    none = x.new_empty(0, dtype=torch.uint8)
    return empty_maps(x, channels_last, oh, ow), empty_maps(
        x, channels_last, oh, ow, torch.uint8
    ) if want_offsets else none


pool_forward = define(
    "max_pool2d",
    f"(Tensor x, bool channels_last, bool want_offsets, SymInt oh, SymInt ow, {WINDOW}) -> (Tensor, Tensor)",
    _fake,
)


class MaxPool2dFunction(Function):
    @staticmethod
    def forward(ctx, x, channels_last, oh, ow, window):
        y, offsets = pool_forward(x, channels_last, True, oh, ow, *window)
        ctx.save_for_backward(offsets)
        ctx.channels_last, ctx.size, ctx.window = channels_last, x.shape[-2:], window
        return y

    @staticmethod
    def backward(ctx, dy):
        return pool_backward(ctx, dy), None, None, None, None


class MaxPool2dWithIndicesFunction(Function):
    @staticmethod
    def forward(ctx, x, channels_last, oh, ow, window):
        y, offsets = pool_forward(x, channels_last, True, oh, ow, *window)
        indices = pool_indices(offsets, channels_last, x.shape[-1], *window)
        ctx.save_for_backward(offsets)
        ctx.mark_non_differentiable(indices)
        ctx.channels_last, ctx.size, ctx.window = channels_last, x.shape[-2:], window
        return y, indices

    @staticmethod
    def backward(ctx, dy, _):
        return pool_backward(ctx, dy), None, None, None, None


def _stock(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    """torch.max_pool2d where F.max_pool2d has nothing to look at, or itself."""
    if return_indices or torch.compiler.is_compiling():
        return F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return torch.max_pool2d(x, kernel_size, kernel_size if stride is None else stride, padding, dilation, ceil_mode)


def _max_pool(op, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    arguments = kernel_size, stride, padding, dilation, ceil_mode, return_indices
    decided, route = decide(input, kernel_size, stride, dilation, return_indices)
    plan = MEASURED if route == STOCK else plan_of(input, *arguments)
    if type(plan) is str:
        return call_stock(op, plan, decided, WANTS, _stock, NAMES, input, *arguments)
    note_ours(op, "max_pool2d", input, decided)
    window, oh, ow = plan
    channels_last = is_channels_last(input)
    if wants_grad(input):
        function = MaxPool2dWithIndicesFunction if return_indices else MaxPool2dFunction
        return function.call(input, channels_last, oh, ow, window)
    y, offsets = pool_forward(input, channels_last, return_indices, oh, ow, *window)
    return (y, pool_indices(offsets, channels_last, input.shape[-1], *window)) if return_indices else y


@drop_in(F.max_pool2d, WANTS)
def max_pool2d(
    input: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Largest value of each window. Counterpart of :func:`torch.nn.functional.max_pool2d`.

    Backward keeps one byte per output, which of its taps won, and no input.

    Args:
        input: ``[n, c, h, w]`` or ``[c, h, w]``, contiguous or channels_last; float64, float32, bfloat16 or float16 for
            our kernel, else stock's.
        kernel_size: rows and columns of the window; more than 255 taps go to stock.
        stride: step from window to window; None for ``kernel_size``.
        padding: rows and columns of :math:`-\infty` around the input, at most half of ``kernel_size``.
        dilation: step from tap to tap.
        ceil_mode: whether a window may reach beyond the padding.
        return_indices: whether to return also where in its map (``row * w + column``) each value was found, as int64.

    Returns:
        ``[n, c, oh, ow]`` or ``[c, oh, ow]`` in the memory format of ``input``; and, if asked for, the indices. Where a
        window's values are all :math:`-\infty` that is its first tap's; stock gives 0 for channels_last on CUDA.

    Raises:
        RuntimeError: the window does not fit, or a size other than n is 0.
        TypeError: a size is no int.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.max_pool2d(torch.arange(16.0).view(1, 4, 4), 2)
        tensor([[[ 5.,  7.],
                 [13., 15.]]])
    """
    return _max_pool("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@drop_in(F.max_pool2d_with_indices, WANTS)
def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`max_pool2d` with its indices, whatever ``return_indices`` says, as stock's function of this name.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.max_pool2d_with_indices(torch.arange(4.0).view(1, 2, 2), 2)[1]
        tensor([[[3]]])
    """
    return _max_pool("max_pool2d_with_indices", input, kernel_size, stride, padding, dilation, ceil_mode, True)


class MaxPool2d(nn.MaxPool2d, metaclass=Counterpart):
    """:class:`torch.nn.MaxPool2d` on our kernels: same arguments, attributes and repr; see :func:`max_pool2d`.

    Example:
        >>> from torchext import nn
        >>> nn.MaxPool2d(2)(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 3, 4, 4])
    """

    _stock_forward = stock_method(nn.MaxPool2d.forward)

    def forward(self, input: Tensor):
        if is_scripting():
            return self._stock_forward(input)
        return max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )  # fmt: skip


def options_of(pool: nn.MaxPool2d) -> dict:
    """What a layer that pools at its end calls the options of `pool`."""
    return {name: getattr(pool, name.removeprefix("pool_")) for name in POOL_OPTIONS}


class PoolsAtItsEnd:
    """Gives a layer of torch's the keywords of the pooling at its end."""

    def __init__(
        self,
        *args,
        pool_kernel_size,
        pool_stride=None,
        pool_padding=0,
        pool_dilation=1,
        pool_ceil_mode=False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.pool_kernel_size = pool_kernel_size
        self.pool_stride = pool_kernel_size if pool_stride is None else pool_stride
        self.pool_padding = pool_padding
        self.pool_dilation = pool_dilation
        self.pool_ceil_mode = pool_ceil_mode

    def _pool(self, rectified: Tensor) -> Tensor:
        """Stock's, for TorchScript."""
        return F.max_pool2d(
            rectified, self.pool_kernel_size, self.pool_stride, self.pool_padding, self.pool_dilation,
            self.pool_ceil_mode,
        )  # fmt: skip

    def pool_options(self) -> dict:
        return {name: getattr(self, name) for name in POOL_OPTIONS}

    def extra_repr(self) -> str:
        return ", ".join([super().extra_repr(), *(f"{name}={value}" for name, value in self.pool_options().items())])
