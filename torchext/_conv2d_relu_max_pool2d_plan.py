"""How our kernels serve a convolution that is rectified and pooled: the pooling in numbers, and whether one fits."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from . import _chosen, _conv2d_plan, _op
from ._conv2d_plan import DIRECTLY
from ._shapes import MAX_TAPS, out_size, pair, pooled_sizes


class Windows(NamedTuple):
    """A pooling as our ops take it."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


def windows_of(kernel, stride, padding, dilation, ceil_mode, out) -> Windows | None:
    """The pooling of `out` results where our kernel serves it, else None."""
    kernel = pair(kernel)
    stride, padding, dilation = kernel if stride is None else pair(stride), pair(padding), pair(dilation)
    if None in (kernel, stride, padding) or dilation != (1, 1) or type(ceil_mode) is not bool:
        return None
    if min(*kernel, *stride) < 1 or kernel[0] * kernel[1] > MAX_TAPS:
        return None
    for i in (0, 1):
        if not 0 <= 2 * padding[i] <= kernel[i]:
            return None
        if out_size(out[i], kernel[i], stride[i], padding[i], 1, ceil_mode) < 1:
            return None
    return Windows(kernel, stride, padding)


def halves(windows: Windows, out, ceil_mode) -> bool:
    """Whether pooling leaves at most half of the gradients: then the convolution's are made from the winners' alone."""
    return 2 * math.prod(pooled_sizes(out, *windows, ceil_mode)) <= math.prod(out)


_SHARED = 96 << 10  # bytes that a GPU block stages at most: kDirectShared in csrc/cuda
_MOST_TAPS_OF_TRITON = 256  # one product per tap of the pooling window: few channels, by design


def fits_direct(x, w, plan, windows: Windows) -> bool:
    """Whether the direct kernel can serve it: on the CPU by its scratch, on a GPU where its smallest tile fits.

    That tile has one window's patch and the filters of 8 results, of one channel.
    """
    if x.is_cpu and _chosen.name() not in _op.SERVED:
        return _conv2d_plan.algorithm(x, w, plan) == DIRECTLY
    if _chosen.name() == "triton" and w.shape[1:].numel() > _MOST_TAPS_OF_TRITON:
        return False
    stride, _, dilation, _ = plan.geometry
    taps = w.shape[2:]
    rows, columns = (
        ((kernel + 1) // 2 * 2 - 1) * step + (count - 1) * apart + 1
        for kernel, step, count, apart in zip(windows.kernel, stride, taps, dilation)
    )
    elements = rows * (columns + 1) + 8 * (taps[0] * taps[1] + 1)
    return elements * (8 if x.dtype is torch.float64 else 4) <= _SHARED
