"""The calls whose launches are compiled for the static tables: each op's launchers on meta tensors, at real sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from torchext import kernels
from torchext.linear_relu import NATIVE

HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64


def meta(*shape: int, dtype: torch.dtype = SINGLE) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def dropout() -> Iterator[Callable]:
    seed = meta(dtype=torch.int64)
    for dtype in (HALF, SINGLE, DOUBLE):
        yield partial(kernels.dropout.dropout, meta(1 << 24, dtype=dtype), seed, 0.5, 2.0, 0.0, 0.0)


def max_pool2d() -> Iterator[Callable]:
    """Pairs with patches and windows with gather, in both formats; and the indices."""
    byte = torch.uint8
    for dtype, last in ((HALF, False), (SINGLE, False), (SINGLE, True), (DOUBLE, False)):
        for k, pad in ((2, 0), (3, 1)):
            window = k, k, 2, 2, pad, pad, 1, 1
            format = torch.channels_last if last else torch.contiguous_format
            x, y = (meta(64, 64, size, size, dtype=dtype).to(memory_format=format) for size in (112, 56))
            yield partial(kernels.max_pool2d.max_pool2d, x, last, True, 56, 56, *window)
            offsets = y.to(byte)
            yield partial(kernels.max_pool2d.max_pool2d_backward, y, offsets, last, 112, 112, *window)
    yield partial(kernels.max_pool2d.max_pool2d_indices, meta(64, 64, 56, 56, dtype=byte), False, 112, *window)


def conv2d_relu_max_pool2d() -> Iterator[Callable]:
    """LeNet's two layers; and a window that overlaps, with padding."""
    op, one = kernels.conv2d_relu_max_pool2d, (1, 1)
    layers = (
        ((512, 1, 28, 28), (6, 1, 5, 5), (0, 0), ((2, 2), (2, 2), (0, 0)), 12),
        ((512, 6, 12, 12), (16, 6, 5, 5), (0, 0), ((2, 2), (2, 2), (0, 0)), 4),
        ((64, 3, 64, 64), (64, 3, 3, 3), (1, 1), ((3, 3), (2, 2), (1, 1)), 32),
    )
    for dtype, count in ((HALF, 3), (SINGLE, 3), (DOUBLE, 1)):
        for image, weight, padding, pool, size in layers[:count]:
            x, w, b = meta(*image, dtype=dtype), meta(*weight, dtype=dtype), meta(weight[0], dtype=dtype)
            geometry = one, padding, one, 1, *pool
            dy = meta(image[0], weight[0], size, size, dtype=dtype)
            yield partial(op.conv2d_relu_max_pool2d, x, w, b, *geometry, False)
            yield partial(op.conv2d_relu_max_pool2d_backward, dy, dy.to(torch.uint8), x, w, *geometry, True, True, True)


def cross_entropy() -> Iterator[Callable]:
    """Short, ImageNet's and a language model's rows; planes. Of 32000 classes also with probabilities and weights."""
    for dtype in (HALF, SINGLE, DOUBLE):
        for shape in ((1 << 18, 10), (4096, 1000), (4096, 32000), (8, 21, 512, 512), (8, 32000, 1024)):
            x = meta(*shape, dtype=dtype)
            if dtype != DOUBLE:
                yield from _cross_entropy(x, meta(shape[0], *shape[2:], dtype=torch.int64), None, 0.0, 1)
            if shape[1] == 32000:
                yield from _cross_entropy(x, x, meta(shape[1], dtype=dtype), 0.1, 0)


def _cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None, smoothing: float, reduction: int):
    op = kernels.cross_entropy
    stats = meta(op.logits(x, target).stats_size(), dtype=DOUBLE if x.dtype == DOUBLE else SINGLE)
    dloss = x.select(1, 0).contiguous() if reduction == 0 else meta(dtype=x.dtype)
    yield partial(op.cross_entropy, x, target, weight, -100, smoothing, reduction)
    yield partial(op.cross_entropy_backward, dloss, x, target, weight, stats, -100, smoothing, reduction)


def linear_relu() -> Iterator[Callable]:
    forward, backward = kernels.linear_relu.linear_relu, kernels.linear_relu.linear_backward
    every = (True, True, True)
    large, small = (8192, 1024, 4096), (512, 784, 256)  # the small ones' sums are split into pieces
    for dtype, (m, k, n) in ((HALF, large), (HALF, small), (SINGLE, large), (DOUBLE, large)):
        x, w, y = (meta(*shape, dtype=dtype) for shape in ((m, k), (n, k), (m, n)))
        yield partial(forward, x, w, meta(n, dtype=dtype), NATIVE)
        yield partial(backward, y, x, w, y, NATIVE, *every)
    with_tf32 = partial(_with_precision, "matmul", "tf32")
    x, w, y = meta(8192, 1024), meta(4096, 1024), meta(8192, 4096)
    yield partial(with_tf32, forward, x, w, meta(4096), NATIVE)
    yield partial(with_tf32, backward, y, x, w, y, NATIVE, *every)
    unaligned = meta(8192, 1025, dtype=HALF)[:, :1023]
    yield partial(forward, unaligned, meta(4096, 1023, dtype=HALF), None, NATIVE)


def conv2d() -> Iterator[Callable]:
    forward, backward, last = kernels.conv2d.conv2d_relu, kernels.conv2d.conv2d_backward, torch.channels_last
    wide, first = ((32, 64, 56, 56), (128, 64, 3, 3)), ((64, 3, 64, 64), (16, 3, 5, 5))

    def both(shapes, stride, dtype, layout):
        x, w = (meta(*shape, dtype=dtype).to(memory_format=layout) for shape in shapes)
        geometry = ([stride, stride], [1, 1], [1, 1], 1, True)
        y = forward(x, w, meta(len(w), dtype=dtype), *geometry)
        backward(y, x, w, y, *geometry, True, True, True)

    for dtype, stride in ((HALF, 2), (SINGLE, 1), (DOUBLE, 1)):
        yield partial(_with_precision, "conv", "ieee", both, wide, stride, dtype, last)
    for dtype in (HALF, SINGLE):
        yield partial(_with_precision, "conv", "ieee", both, first, 1, dtype, torch.contiguous_format)
    yield partial(_with_precision, "conv", "tf32", both, wide, 1, SINGLE, last)


def _with_precision(op: str, precision: str, launcher: Callable, *args) -> None:
    switch = {"matmul": torch.backends.cuda.matmul, "conv": torch.backends.cudnn.conv}[op]
    before, switch.fp32_precision = switch.fp32_precision, precision
    try:
        launcher(*args)
    finally:
        switch.fp32_precision = before


def linear_cross_entropy() -> Iterator[Callable]:
    """A language model's last layer, in chunks; all kernels but one are in linear_relu's or cross_entropy's tables."""
    x, w, index = meta(1000, 1024, dtype=HALF), meta(32000, 1024, dtype=HALF), meta(1000, dtype=torch.int64)
    options = None, -100, 0.0, 1, 256, True, True, False
    yield partial(kernels.linear_cross_entropy.linear_cross_entropy, x, w, None, index, *options)


ALL = (conv2d, conv2d_relu_max_pool2d, cross_entropy, dropout, linear_cross_entropy, linear_relu, max_pool2d)
CASES: dict[str, Callable[[], Iterator[Callable]]] = {case.__name__: case for case in ALL}
