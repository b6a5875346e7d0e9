"""Sizes, windows and memory formats: what ops, their plans and kernels/ must reckon alike."""

from __future__ import annotations

import torch
from torch import Tensor

DEAD = MAX_TAPS = 255  # csrc/max_pool2d.h: the offset of an output that passes no gradient, and the taps that leaves

# A pooling's options as the arguments of what pools at its end.
POOL_OPTIONS = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "pool_ceil_mode")
# Windows as the schemas spell them: number by number, with its dilation, and in pairs.
UNDILATED = "SymInt kh, SymInt kw, SymInt sh, SymInt sw, SymInt ph, SymInt pw"
WINDOW = f"{UNDILATED}, SymInt dh, SymInt dw"
WINDOW_PAIRS = "int[2] pool_kernel, int[2] pool_stride, int[2] pool_padding"


def out_size(size, kernel, stride, padding, dilation, ceil_mode=False):
    """How many windows of a convolution or pooling lie along an edge; in ceil_mode the last may reach beyond it."""
    count = (size + 2 * padding - dilation * (kernel - 1) - 1 + (stride - 1 if ceil_mode else 0)) // stride + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size + padding else count  # none begins beyond the input


def convolved_sizes(x: Tensor, w: Tensor, stride, padding, dilation):
    """Rows and columns that a convolution of x and w gives, lazily; the options in pairs."""
    return map(out_size, x.shape[2:], w.shape[2:], stride, padding, dilation)


def pooled_sizes(sizes, kernel, stride, padding, ceil_mode):
    """Rows and columns that a pooling without dilation gives, lazily; all but ceil_mode in pairs."""
    return map(out_size, sizes, kernel, stride, padding, (1, 1), (ceil_mode, ceil_mode))


def pair(value):
    """(value, value) or the pair itself; None where stock must say what is wrong with it."""
    if type(value) is int:
        return value, value
    if type(value) in (tuple, list) and len(value) in (1, 2):
        first, last = value[0], value[-1]
        if type(first) is int and type(last) is int:
            return first, last
    return None


def window_of(kernel_size, stride, padding, dilation):
    """The eight ints of a window; None if these are not ints and pairs of ints, or not what a window can have."""
    flat = []
    for v in (kernel_size, kernel_size if stride is None else stride, padding, dilation):
        if type(v) is int:
            flat += (v, v)
        elif type(v) in (tuple, list) and len(v) == 2 and type(v[0]) is int and type(v[1]) is int:
            flat += v
        else:
            return None
    kh, kw, sh, sw, ph, pw, dh, dw = flat
    if kh < 1 or kw < 1 or sh < 1 or sw < 1 or dh < 1 or dw < 1 or not 0 <= ph <= kh // 2 or not 0 <= pw <= kw // 2:
        return None
    return flat


def same_padding(padding, stride, dilation, r, s):
    """The numbers for "valid" and "same"; None where "same" is uneven or stock must refuse."""
    if padding == "valid":
        return 0, 0
    rows, columns = dilation[0] * (r - 1), dilation[1] * (s - 1)
    if padding != "same" or stride != (1, 1) or rows % 2 or columns % 2:
        return None
    return rows // 2, columns // 2


def is_channels_last(x: Tensor) -> bool:
    """Whether stock gives its results in channels_last: at::Tensor::suggest_memory_format, off the strides alone."""
    if x.dim() != 4:
        return False
    (_, c, h, w), (sn, sc, sh, sw) = x.shape, x.stride()
    return sw >= sc * c and sh >= sw * w and sn >= sh * h and sh * h != sc and sc != 0 and x.numel() != 0


def format_of(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def empty_maps(like: Tensor, channels_last: bool, h, w, dtype=None) -> Tensor:
    """For h x w maps, one for each of `like`'s."""
    shape = *like.shape[:-2], h, w
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=format_of(channels_last))


def empty_image(x: Tensor, w: Tensor, shape, dtype=None) -> Tensor:
    """For what a convolution of x and w gives, in stock's memory format: channels_last if either is."""
    layout = format_of(is_channels_last(x) or is_channels_last(w))
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=layout)


def empty_gradients(x: Tensor, w: Tensor, want_dx: bool, want_dw: bool, want_db: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For the gradients of a convolution of x and w; of those not wanted an empty tensor."""
    return (
        empty_image(x, w, x.shape) if want_dx else x.new_empty(0),
        empty_image(x, w, w.shape) if want_dw else x.new_empty(0),
        x.new_empty(w.shape[0] if want_db else 0),
    )


def empty_dropped(x: Tensor, fill: float) -> Tensor:
    """For what dropout gives of x, contiguous or in any order of dimensions; strides as csrc/dropout.cpp's empty_as."""
    product = not x.is_cuda or fill != 0
    return x.new_empty(x.shape) if product and x.is_contiguous() else torch.empty_like(x)
