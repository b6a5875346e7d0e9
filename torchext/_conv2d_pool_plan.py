"""How a convolution that is rectified and pooled is served: the pooling in numbers, and the measured rules."""

from __future__ import annotations

import math

import torch

from . import _chosen, _gpu_route, _route
from ._conv2d_plan import DIRECT, WINOGRAD
from ._shapes import MAX_TAPS, out_size, pair, pooled_sizes


def pool_plan(kernel, stride, padding, dilation, ceil_mode, out):
    """(kernel, stride, padding) in pairs where our kernel serves this pooling of `out` results, else None."""
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
    return kernel, stride, padding


_SHARED = 96 << 10  # bytes that a GPU block stages at most: kDirectShared in csrc/cuda


_FEW_TAPS = 32  # of all channels; the table's other row goes to MOST_TAPS


def _is_faster_on_gpu(w, dtype, size) -> bool:
    taps = w.shape[1:].numel()
    kind = f"conv2d_relu_max_pool2d to {_FEW_TAPS if taps <= _FEW_TAPS else _gpu_route.MOST_TAPS} taps"
    return taps <= _gpu_route.MOST_TAPS and _gpu_route.is_faster("conv2d_relu_max_pool2d", kind, dtype, size)


def is_stocks_on_gpu(x, w) -> bool:
    """Whether "auto" need not plan (20 us of Python), since even padded by the whole filter the results are too few."""
    if not _gpu_route.is_auto_on_gpu(x) or type(w) not in _route.PLAIN or x.dim() != 4 or w.dim() != 4:
        return False
    n, _, h, width = x.shape
    k, _, r, s = w.shape
    return not _is_faster_on_gpu(w, x.dtype, n * k * (h + r) * (width + s))


def prefers_direct(x, w, geometry, out, windows) -> bool:
    """Whether the direct kernel serves it: on the CPU the measured rule, on a GPU where its smallest tile fits.

    That tile has one window's patch and the filters of 8 results, of one channel.
    """
    if x.is_cpu and _chosen.name() != "simt":
        return geometry[4] == DIRECT
    stride, _, dilation = geometry[:3]
    taps = w.shape[2:]
    if _route.auto() and not _is_faster_on_gpu(w, x.dtype, x.shape[0] * w.shape[0] * math.prod(out)):
        return False
    rows, columns = (
        ((kernel + 1) // 2 * 2 - 1) * step + (count - 1) * apart + 1
        for kernel, step, count, apart in zip(windows[0], stride, taps, dilation)
    )
    elements = rows * (columns + 1) + 8 * (taps[0] * taps[1] + 1)
    return elements * (8 if x.dtype is torch.float64 else 4) <= _SHARED


# Of Winograd's convolutions (16, 32, ... channels): bytes of an image with its border up to which both gradients made
# from the winners of the pooling windows beat Winograd's own. Forward and backward, AVX-512, float32: 1.2x at 40 KB,
# 1.05x at 80 KB, 1.0x at 150 KB; of 64 channels 1.0x at any size.
_WINNERS_BYTES = 80 << 10


def pays_together(x, geometry, pool, out, ceil_mode) -> bool:
    """Whether ReLU and pooling leave so few gradients that the convolution's are better made from these alone."""
    kernel, stride, padding = pool
    size = pooled_sizes(out, kernel, stride, padding, ceil_mode)
    if 2 * math.prod(size) > math.prod(out):
        return False
    if geometry[4] == DIRECT:
        return True
    _, c, height, width = x.shape
    image = c * (height + 2 * geometry[1][0]) * (width + 2 * geometry[1][1]) * x.element_size()
    return geometry[4] == WINOGRAD and c < 64 and image <= _WINNERS_BYTES
