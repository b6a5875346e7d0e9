"""Routes of max_pool2d: what its speed depends on."""

from __future__ import annotations

from torch import Tensor

from . import _gpu, _op
from ._op import wants_grad
from ._shapes import is_channels_last, window_of
from ._table import DTYPE, FLOATS, NATIVE, NO_YES, STOCK, THREADS, TRITON, Decided, Family, several_threads

LAYOUTS, WINDOWS = ("contiguous", "channels_last"), ("apart", "overlapping")
CPU = Family(
    "max_pool2d", "cpu", STOCK, (STOCK, NATIVE), "elements",
    dtype=FLOATS, gradient=NO_YES, layout=LAYOUTS, windows=WINDOWS, indices=NO_YES, threads=THREADS,
)  # fmt: skip
GPU = Family(
    "max_pool2d", "cuda", STOCK, (STOCK, NATIVE, TRITON), "elements",
    serving=_gpu.SERVING, bytes=_gpu.BYTES, layout=LAYOUTS, windows=(*WINDOWS, "others, or with indices"),
    captured=NO_YES,
)  # fmt: skip


def _overlap(kernel_size, stride) -> int:
    if stride is None:
        return 0
    if type(kernel_size) is int and type(stride) is int:
        return 1 if stride < kernel_size else 0
    window = window_of(kernel_size, stride, 0, 1)
    return 1 if window is None or window[2] < window[0] or window[3] < window[1] else 0


def _layout(x: Tensor) -> int:
    return 0 if x.is_contiguous() or not is_channels_last(x) else 1


def on_cpu(x: Tensor, kernel_size, stride, indices) -> Decided | None:
    """The row and the size of a pooling on the CPU; None where there is none."""
    dtype = DTYPE.get(x.dtype)
    if dtype is None:
        return None
    row = ((dtype * 2 + wants_grad(x)) * 2 + _layout(x)) * 2 + _overlap(kernel_size, stride)
    return CPU, (row * 2 + (1 if indices else 0)) * 2 + several_threads(), x.numel()


def on_gpu(x: Tensor, kernel_size, stride, dilation, indices) -> Decided | None:
    """The same on a GPU, where no graph is captured. Windows of at most 3 x 3 were measured there."""
    serving, window = _op.GPU.get("max_pool2d"), window_of(kernel_size, stride, 0, dilation)
    if serving is None or window is None:
        return None
    kh, kw, _, _, _, _, dh, dw = window
    windows = 2 if indices or max(kh, kw) > 3 or max(dh, dw) > 1 else _overlap(kernel_size, stride)
    row = (_gpu.SERVING.index(serving) * 2 + (x.dtype.itemsize == 2)) * 2 + _layout(x)
    return GPU, (row * 3 + windows) * 2, x.numel()
