"""The sizes at which a GPU's routes are measured: each op over its size classes, small to large, in two dtypes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from . import bench_conv2d, bench_cross_entropy, bench_dropout, bench_linear_cross_entropy, bench_linear_relu
from . import bench_conv2d_relu_max_pool2d as bench_pooled
from . import bench_max_pool2d as bench_pool
from .harness import Case, Size

F32, BF16, NCHW, NHWC = torch.float32, torch.bfloat16, torch.contiguous_format, torch.channels_last
CLASSES = {
    10: (64, 512, 4096, 65536, 1 << 18, 1 << 20),
    128: (64, 4096, 65536, 1 << 17, 1 << 18),
    1000: (64, 256, 1024, 8192, 25600, 65536),
    4096: (64, 1024, 16384),
    32000: (8, 128, 1024, 2048, 8192),
    128256: (64, 2048),
}
PLANES = (64, 10, 28, 28), (8, 21, 256, 256), (8, 21, 512, 512)
WINDOWS = {"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}
MORE_WINDOWS = {"kernel_size": 3}, {"kernel_size": 3, "stride": 1, "padding": 1}
MAPS = (
    *((8, 16, 12, 12), (64, 6, 24, 24), (64, 16, 28, 28), (16, 64, 56, 56), (64, 64, 56, 56), (128, 64, 56, 56)),
    (256, 64, 56, 56),
)
LAYERS = (
    *((64, 120, 84), (64, 256, 120), (100, 784, 500), (512, 256, 120), (512, 784, 500), (4096, 512, 512)),
    *((8192, 512, 8192), (8192, 1024, 4096), (8192, 8192, 8192)),
)
FIRST, SECOND = (64, 1, 28, 28, 6, 5), (64, 6, 12, 12, 16, 5)  # LeNet's
CNN = (100, 1, 28, 28, 16, 5), (100, 16, 14, 14, 32, 5)  # with padding 2
WIDE = (32, 64, 56, 56, 64, 3), (256, 64, 56, 56, 64, 3), (64, 256, 14, 14, 256, 3), (64, 3, 64, 64, 64, 3)  # padding 1
STRIDED = (  # ResNet's
    ((64, 3, 224, 224, 64, 7), {"padding": 3, "stride": 2}),
    ((64, 64, 56, 56, 128, 3), {"padding": 1, "stride": 2}),
    ((64, 256, 56, 56, 64, 1), {}),
)


def cases() -> Iterator[Case]:
    yield from _cross_entropy()
    yield from _max_pool2d()
    for dtype in (F32, BF16):
        for n in (12, 16, 20, 22, 23, 24, 25, 26, 27, 28):
            yield bench_dropout.test_dropout.case(Size((1 << n,), {"p": 0.5}, dtype))
    for dtype in (F32, BF16):
        for shape in LAYERS[: -1 if dtype == F32 else None]:
            yield bench_linear_relu.test_linear_relu.case(Size(shape, {}, dtype))
    yield from _convolutions()
    for shape, dtype in (((512, 256, 8000), F32), ((1024, 1024, 32000), F32), ((4096, 1024, 32000), BF16)):
        yield bench_linear_cross_entropy.test_linear_cross_entropy.case(Size(shape, {}, dtype))


def _cross_entropy() -> Iterator[Case]:
    for dtype in (F32, BF16):
        for classes, rows in CLASSES.items():
            for n in rows if dtype == F32 else rows[1::2]:
                yield bench_cross_entropy.test_cross_entropy.case(Size((n, classes), {}, dtype))
        for shape in PLANES:
            yield bench_cross_entropy.test_cross_entropy.case(Size(shape, {}, dtype))
        yield bench_cross_entropy.test_cross_entropy.case(Size((65536, 1000), {"label_smoothing": 0.1}, dtype))


def _max_pool2d() -> Iterator[Case]:
    for window in WINDOWS:
        for dtype in (F32, BF16):
            for layout in (NCHW, NHWC):
                for shape in MAPS if dtype == F32 else (MAPS[1], *MAPS[3:]):
                    yield bench_pool.test_max_pool2d.case(Size(shape, window, dtype, layout))
    for window in MORE_WINDOWS:
        for dtype, layout in ((F32, NCHW), (BF16, NHWC)):
            for shape in (MAPS[2], MAPS[-1]):
                yield bench_pool.test_max_pool2d.case(Size(shape, window, dtype, layout))


def _convolutions() -> Iterator[Case]:
    relu, pooled = bench_conv2d.test_conv2d_relu.case, bench_pooled.test_conv2d_relu_max_pool2d.case
    for n in (4, 64, 128, 256, 512):
        for shape in (FIRST, SECOND):
            for make in (relu, pooled) if n in (4, 512) else (pooled,):
                yield make(Size((n, *shape[1:])))
        for shape in CNN if n in (64, 512) else ():
            yield pooled(Size((n, *shape[1:]), {"padding": 2}))
    for shape in (FIRST, SECOND):
        yield pooled(Size((512, *shape[1:]), {}, BF16))
    for shape in WIDE:
        for dtype, layout in ((F32, NCHW), (BF16, NHWC)):
            yield relu(Size(shape, {"padding": 1}, dtype, layout))
    for shape, options in STRIDED:
        yield relu(Size(shape, options, BF16, NHWC))
    for shape, dtype, layout in ((WIDE[0], BF16, NHWC), (WIDE[3], F32, NCHW), (WIDE[3], BF16, NHWC)):
        yield pooled(Size(shape, {"padding": 1}, dtype, layout))
