"""Routes of conv2d_relu_max_pool2d: what its speed depends on."""

from __future__ import annotations

from torch import Tensor

from . import _conv2d_route, _gpu, _op
from ._conv2d_route import CHANNELS, CLASSES, FEW_WINOGRADS
from ._table import APART, DIRECT, NATIVE, NO_YES, TRITON, WINOGRAD, Decided, Family

_TAPS = 32, 160  # of all channels: a library's tensor cores win with the depth of the product


def _unit(when: dict[str, str]) -> str:
    return "elements an image" if when["channels"].startswith("Winograd's") else _conv2d_route.unit(when)


CPU = Family("conv2d_relu_max_pool2d", "cpu", APART, (APART, DIRECT, WINOGRAD), _unit, **CLASSES)
GPU = Family(
    "conv2d_relu_max_pool2d", "cuda", APART, (APART, NATIVE, TRITON), "results before pooling",
    serving=_gpu.SERVING, bytes=_gpu.BYTES, taps=(*(f"to {taps}" for taps in _TAPS), "more"), captured=NO_YES,
)  # fmt: skip


def on_cpu(x: Tensor, w: Tensor, stride, padding, dilation, groups, gradient: int) -> Decided | None:
    """The row and the size of a pooled convolution on the CPU; None where there is none."""
    found = _conv2d_route.on_cpu(x, w, stride, padding, dilation, groups, gradient)
    if found is None:
        return None
    _, row, size = found
    if row // 4 % len(CHANNELS) < FEW_WINOGRADS:
        return CPU, row, size
    return CPU, row, x.shape[1:].numel() + 2 * x.shape[2:].numel() * w.shape[0]


def _row_on_gpu(bytes_each: int, w: Tensor) -> int | None:
    serving, taps = _op.GPU.get("conv2d_relu_max_pool2d"), w.shape[1:].numel()
    if serving is None:
        return None
    depth = 0 if taps <= _TAPS[0] else 1 if taps <= _TAPS[1] else 2
    return ((_gpu.SERVING.index(serving) * 2 + (bytes_each == 2)) * 3 + depth) * 2


def on_gpu(x: Tensor, w: Tensor, results: int) -> Decided | None:
    """The same of so many results before pooling, on a GPU where no graph is captured."""
    row = _row_on_gpu(x.dtype.itemsize, w)
    return None if row is None else (GPU, row, results)


def may_be_ours_on_gpu(x: Tensor, w: Tensor) -> bool:
    """Whether the row has another route than APART up to the most results there can be: padded by the whole filter."""
    row = _row_on_gpu(x.dtype.itemsize, w)
    if row is None or x.dim() != 4 or w.dim() != 4:
        return False
    n, _, h, width = x.shape
    k, _, r, s = w.shape
    return _gpu.convolution_route(GPU, row, n * k * (h + r) * (width + s)) != APART


def is_ever_ours_on_gpu(w: Tensor) -> bool:
    """Whether the row of a layer's filters has another route than APART at any size."""
    row = _row_on_gpu(w.dtype.itemsize, w)
    return row is not None and any(route != APART for steps in GPU.steps[row : row + 2] for _, route in steps)
