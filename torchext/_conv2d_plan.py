"""How a convolution is served: its options in numbers, whether stock must, and the measured rule between kernels."""

from __future__ import annotations

import torch

from . import _chosen, _op, _private, _route
from ._route import PLAIN
from ._shapes import is_channels_last, out_size, pair, same_padding

WANTS = (
    "input [n, c, h, w] or [c, h, w], weight [k, c / groups, r, s] and bias [k] or None, of one floating dtype and one "
    "device, and a kernel no larger than the padded image"
)
CONTIGUOUS_ON_GPU = "on a GPU stock gives float64 channels_last images a contiguous result; ours keeps the format"


LIBRARY, DIRECT, WINOGRAD = range(3)  # the algorithms of csrc/conv2d.cpp, on the CPU

_BF16_UNITS = _private.has_bf16_units()  # which oneDNN uses, at twice float32's rate


def prefers_winograd(x, w, p, q, stride, padding, dilation, groups) -> bool:
    """Whether Winograd's algorithm serves a convolution to [p, q] results on the CPU, and the measured rule.

    Beside oneDNN and the direct kernel it wins 1.1x to 3x, forward and backward on one core (AVX-512 and AVX2), until
    the transforms of many weights go with few tiles: 16 tiles at 256 channels are the library's.
    """
    n, c = x.shape[:2]
    k, _, r, s = w.shape
    if not x.is_cpu or x.dtype is not torch.float32 or _chosen.name() in _op.SERVED:
        return False
    if r != s or r not in (3, 5) or stride != (1, 1) or dilation != (1, 1) or groups != 1 or max(padding) >= r:
        return False
    tiles = n * ((p + 1) // 2) * ((q + 1) // 2)
    return c % 16 == 0 and k % 16 == 0 and q <= 1 << 10 and c * k <= tiles << 11


def prefers_direct(x, w, p, q, stride, pooled) -> bool:
    """Whether our own kernel, and not a library's, serves a convolution to [p, q] results: the measured rule.

    Measured forward and backward on one AVX-512 core against oneDNN. Channels in blocks of 16 are oneDNN's own ground;
    beside it the direct kernel wins 1.0x to 3x while its scratch stays in the caches, and with pooling 1.3x to 9x.
    On a GPU one kernel of ours serves every shape, and "auto" leaves them to cuDNN until it is measured.
    """
    n, c, height, width = x.shape
    k, group_c, r, s = w.shape
    taps = group_c * r * s
    backend = _chosen.name()
    if x.is_cuda or backend == "simt":
        return backend != "auto"
    lanes, size = (8, 8) if x.dtype is torch.float64 else (16, 4)
    if pooled and backend == "triton":  # one product per tap of the window: few channels, by design, unmeasured
        return taps <= 256
    scratch = lanes * size * (c * height * width + 2 * k * p * q)
    if backend == "native":
        return scratch <= 1 << 28
    if scratch > (1 << 28 if pooled else 1 << 23):
        return False
    # Strided, 0.1 of the library's speed at (1, 4, 84, 84)->32 8x8/4, 0.9 at (32, 3, 64, 64)->16 5x5/2.
    strided = max(stride) > 1
    if strided and (n < lanes // 2 or (not pooled and c > 1)):
        return False
    if n < lanes // 2:
        return _pays_for_few(x, w) and (r * s >= 25 or 4 * q > 3 * (-q // lanes * -lanes))
    if not pooled and _BF16_UNITS and x.dtype is torch.bfloat16 and k % 16 == 0 and c > 4:
        return False
    if c % 16 or k % 16 or x.dtype is torch.float64:
        return True
    return n >= 4 * lanes and x.dtype is torch.float32 and taps <= 150  # a vector of images is one thread's


def _pays_for_few(x, w) -> bool:
    """Whether the direct kernel wins though most of its lanes are empty where they are images.

    A library spends 60 us on finding its kernel, which is much beside a small convolution with a large window; and a
    first layer, which needs no input gradient, has its lanes along rows.
    """
    n, c, height, width = x.shape
    k, _, r, s = w.shape
    work = c * height * width * k * r * s  # about: of one image
    return (r * s >= 25 and work <= 350_000) or (c <= 4 and width >= 16 and not x.requires_grad and n * work >= 1 << 17)


def few_images_are_librarys(x, w, stride) -> bool:
    """Of a few images in "auto" what :func:`plan` would find, found in 1 us for its 5."""
    if type(x) not in PLAIN or type(w) not in PLAIN or w.is_nested or not _route.auto():
        return False
    if not x.is_cpu or x.dim() != 4 or w.dim() != 4 or x.shape[0] >= 8:
        return False
    k, c, r, _ = w.shape
    strides = pair(stride)
    if strides != (1, 1):
        return strides is not None
    in_blocks = c % 16 == 0 and k % 16 == 0 and r in (3, 5)  # Winograd's, perhaps
    return not in_blocks and not _pays_for_few(x, w)


def plan(x, w, b, stride, padding, dilation, groups, pooled=False):
    """(stride, padding, dilation, groups, algorithm) and the output size; or why stock must serve it, and None."""
    why = _route.why_stock("conv2d_relu_max_pool2d" if pooled else "conv2d", x, w, b)
    if why is not None:
        return why, None
    if torch.is_autocast_enabled("cpu" if x.is_cpu else "cuda"):
        return "under autocast", None
    stride, dilation = pair(stride), pair(dilation)
    if stride is None or dilation is None or w is None or w.dim() != 4 or x.dim() != 4 or type(groups) is not int:
        return "arguments only stock takes", None
    k, group_c, r, s = w.shape
    if type(padding) is str:
        padding = same_padding(padding, stride, dilation, r, s)
    else:
        padding = pair(padding)
    if padding is None or groups < 1 or min(*stride, *dilation) < 1 or min(padding) < 0:
        return "arguments only stock takes", None
    _, c, h, width = x.shape
    if c != group_c * groups or k % groups != 0 or (b is not None and b.shape != w.shape[:1]) or not x.numel():
        return "shapes only stock takes", None
    p = out_size(h, r, stride[0], padding[0], dilation[0])
    q = out_size(width, s, stride[1], padding[1], dilation[1])
    if p < 1 or q < 1 or not w.numel() or max(h + 2 * padding[0], width + 2 * padding[1]) >= 1 << 30:
        return "shapes only stock takes", None
    if x.is_cuda and x.dtype is torch.float64 and (is_channels_last(x) or is_channels_last(w)):
        return CONTIGUOUS_ON_GPU, None
    if prefers_winograd(x, w, p, q, stride, padding, dilation, groups):
        algorithm = WINOGRAD
    else:
        algorithm = DIRECT if prefers_direct(x, w, p, q, stride, pooled) else LIBRARY
    return (stride, padding, dilation, groups, algorithm), (p, q)


def is_single(input, weight) -> bool:
    """One image without its batch dimension."""
    return type(input) in PLAIN and type(weight) in PLAIN and input.dim() == 3 and weight.dim() == 4
