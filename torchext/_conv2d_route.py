"""Routes of conv2d and conv2d_relu: what their speed depends on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _gpu, _op
from ._op import either_wants_grad
from ._shapes import pair
from ._table import (
    DIRECT,
    DTYPE,
    FLOATS,
    LIBRARY,
    NATIVE,
    NO_YES,
    STOCK,
    THREADS,
    TRITON,
    WINOGRAD,
    Decided,
    Family,
    several_threads,
)

IMAGES = "one", "to 7", "to 63", "more"
WINDOWS = "one tap", "to 24 taps", "more"
CHANNELS = "one", "to 4", "to 12", "others", "in blocks of 16", "in groups", "Winograd's to 48", "Winograd's"
GRADIENTS = "no", "of weight", "of input"  # of both, that is: a network's first layer alone needs none of its input
CLASSES = {
    "dtype": FLOATS, "gradient": GRADIENTS, "images": IMAGES, "window": WINDOWS, "channels": CHANNELS,
    "strided": NO_YES, "threads": THREADS,
}  # fmt: skip
ONE, FEW, SOME, OTHERS, BLOCKS, GROUPS, FEW_WINOGRADS, WINOGRADS = range(len(CHANNELS))


def unit(when: dict[str, str]) -> str:
    """What sizes count: of a few images the work, which a library's overhead is beside; of many what fills the caches;
    and Winograd's transforms of weights are beside the tiles that share them.
    """
    if when["channels"].startswith("Winograd's"):
        return "tiles per 4096 pairs of channels"
    return "multiply-adds an image" if when["images"] in ("one", "to 7") else "elements an image"


CPU = Family("conv2d", "cpu", STOCK, (STOCK, DIRECT, WINOGRAD), unit, **CLASSES)
_OF_GPU = {"serving": _gpu.SERVING, "bytes": _gpu.BYTES, "gradient": NO_YES, "captured": NO_YES}
GPU = Family("conv2d", "cuda", STOCK, (STOCK, NATIVE, TRITON), "results", **_OF_GPU)
RELU_GPU = Family("conv2d_relu", "cuda", STOCK, (STOCK, LIBRARY, NATIVE, TRITON), "results", **_OF_GPU)


def is_winograds(x: Tensor, w: Tensor, stride, padding, dilation, groups) -> bool:
    """Whether Winograd's algorithm can serve a convolution with stride in a pair, whatever else is wrong with it."""
    r, s = w.shape[2:]
    if x.dtype is not torch.float32 or r != s or r not in (3, 5) or stride != (1, 1) or groups != 1:
        return False
    if w.shape[0] % 16 or w.shape[1] % 16 or x.shape[3] + 2 * r > 1 << 10 or pair(dilation) != (1, 1):
        return False
    padding = (0, 0) if type(padding) is str else pair(padding)
    return padding is not None and max(padding) < r


def gradient_of(x: Tensor, w: Tensor) -> int:
    """The digit of the class "gradient"."""
    return (2 if x.requires_grad else 1) if either_wants_grad(x, w) else 0


def on_cpu(x: Tensor, w: Tensor, stride, padding, dilation, groups: Any, gradient: int) -> Decided | None:
    """The row and the size of a convolution on the CPU, read off its arguments in 2 us; None where there is none."""
    dtype, strides = DTYPE.get(x.dtype), stride if type(stride) is tuple and len(stride) == 2 else pair(stride)
    shape, filters = x.shape, w.shape
    if dtype is None or strides is None or len(shape) != 4 or len(filters) != 4 or type(groups) is not int:
        return None
    n, c, h, width = shape
    k, _, r, s = filters
    down, across = strides
    if type(down) is not int or type(across) is not int or min(down, across, groups, r, s, k) < 1:
        return None
    few = n < 8
    images = (0 if n == 1 else 1) if few else (2 if n < 64 else 3)
    taps = r * s
    window = 0 if taps == 1 else 1 if taps < 25 else 2
    area = h * width
    if is_winograds(x, w, strides, padding, dilation, groups):
        channels = FEW_WINOGRADS if c <= 48 else WINOGRADS
        size = (n * ((h + 1) // 2) * ((width + 1) // 2) << 12) // (c * k)
    else:
        if groups > 1:
            channels = GROUPS
        elif c % 16 == 0 and k % 16 == 0:
            channels = BLOCKS
        else:
            channels = ONE if c == 1 else FEW if c <= 4 else SOME if c <= 12 else OTHERS
        if few:
            size = area * c * k * taps // (down * across * groups)
        else:
            size = area * c + 2 * area * k // (down * across)
    row = (((dtype * 3 + gradient) * 4 + images) * 3 + window) * 8 + channels
    row = (row * 2 + (1 if down > 1 or across > 1 else 0)) * 2 + several_threads()
    return CPU, row, size


def on_gpu(family: Family, x: Tensor, w: Tensor, stride, gradient: bool) -> Decided | None:
    """The same on a GPU, where no graph is captured; conv2d and conv2d_relu have each their rows."""
    serving, strides = _op.GPU.get("conv2d"), pair(stride)
    if serving is None or strides is None or min(strides) < 1 or x.dim() != 4 or w.dim() != 4:
        return None
    n, _, h, width = x.shape
    row = (_gpu.SERVING.index(serving) * 2 + (x.dtype.itemsize == 2)) * 2 + (1 if gradient else 0)
    return family, row * 2, n * w.shape[0] * h * width // (strides[0] * strides[1])
