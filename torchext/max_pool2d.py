"""max_pool2d: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from . import _gpu_route, _route
from ._counterpart import Counterpart
from ._max_pool2d_backward import pool_backward, pool_indices
from ._op import Function, define, wants_grad
from ._scripting import stock_method
from ._shapes import MAX_TAPS, WINDOW, empty_maps, is_channels_last, out_size, window_of


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


_WANTS = "input [n, c, h, w] or [c, h, w], and kernel_size, stride, padding and dilation of one int or two"


# Up to this many elements stock's single C++ call is the faster one; [channels_last][gradient wanted].
_SMALL = ((4096, 8192), (32768, 65536))
_WHY_SMALL = "stock measured faster on few elements"


def _is_small(x) -> bool:
    return _gpu_route.is_small("max_pool2d", x.numel()) if x.is_cuda else x.numel() <= _SMALL[0][0]


def _is_faster_on_gpu(x, channels_last, window, return_indices) -> bool:
    """Of windows of at most 3 x 3, those measured there; their indices are a pass of their own."""
    kh, kw, sh, sw, _, _, dh, dw = window
    if return_indices or max(kh, kw) > 3 or max(dh, dw) > 1:
        return False
    kind = "max_pool2d apart" if sh >= kh and sw >= kw else "max_pool2d overlapping"
    return _gpu_route.is_faster("max_pool2d", kind + ", channels_last" * channels_last, x.dtype, x.numel())


def _max_pool(op, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    if type(input) in _route.PLAIN and _route.auto() and _is_small(input):
        _route.note(op, "stock", _gpu_route.WHY if input.is_cuda else _WHY_SMALL)
        try:
            if return_indices:
                return F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, True)
            return torch.max_pool2d(
                input, kernel_size, kernel_size if stride is None else stride, padding, dilation, ceil_mode
            )
        except (RuntimeError, TypeError, NotImplementedError) as error:
            window = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
            raise _route.refusal(op, _WANTS, error, input=input, **window, ceil_mode=ceil_mode) from None
    why = _route.why_stock("max_pool2d", input)
    if why is None:
        channels_last, gradient = is_channels_last(input), wants_grad(input)
        if _route.auto() and input.is_cpu and input.numel() <= _SMALL[1 if channels_last else 0][gradient]:
            why = _WHY_SMALL
    if why is None:
        shape = input.shape
        window = window_of(kernel_size, stride, padding, dilation)
        if (
            window is None
            or type(ceil_mode) is not bool
            or type(return_indices) is not bool
            or len(shape) not in (3, 4)
            or 0 in shape[-3:]
        ):
            why = "arguments only stock takes"
        elif window[0] * window[1] > MAX_TAPS:
            why = f"more than {MAX_TAPS} taps"
        else:
            kh, kw, sh, sw, ph, pw, dh, dw = window
            oh = out_size(shape[-2], kh, sh, ph, dh, ceil_mode)
            ow = out_size(shape[-1], kw, sw, pw, dw, ceil_mode)
            why = None if oh >= 1 and ow >= 1 else "no output"
            if _gpu_route.is_auto_on_gpu(input) and not _is_faster_on_gpu(input, channels_last, window, return_indices):
                why = _gpu_route.WHY
    if why is not None:
        return _route.stock(
            op, why, _WANTS, F.max_pool2d, input=input, kernel_size=kernel_size, stride=stride, padding=padding,
            dilation=dilation, ceil_mode=ceil_mode, return_indices=return_indices,
        )  # fmt: skip
    _route.note_ours(op, "max_pool2d", input)
    if gradient:
        function = MaxPool2dWithIndicesFunction if return_indices else MaxPool2dFunction
        return function.call(input, channels_last, oh, ow, window)
    y, offsets = pool_forward(input, channels_last, return_indices, oh, ow, *window)
    return (y, pool_indices(offsets, channels_last, shape[-1], *window)) if return_indices else y


@_route.drop_in(F.max_pool2d, _WANTS)
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


@_route.drop_in(F.max_pool2d_with_indices, _WANTS)
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


POOL_OPTIONS = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "pool_ceil_mode")


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
