"""max_pool2d: LeNet's, a small CNN's and VGG's 2x2 pools, ResNet's 3x3 stride 2; NCHW and channels_last."""

import torch
from torch.nn import functional as stock

from torchext.nn import functional as F

from .harness import Row, step

TWO = {"kernel_size": 2}
RESNET = {"kernel_size": 3, "stride": 2, "padding": 1}
SHAPES = [
    ((4, 1, 4, 4), TWO, torch.contiguous_format, None),
    ((64, 6, 24, 24), TWO, torch.contiguous_format, 8.0),
    ((64, 16, 8, 8), TWO, torch.contiguous_format, None),
    ((16, 32, 40, 40), TWO, torch.contiguous_format, 8.0),
    ((64, 64, 56, 56), TWO, torch.contiguous_format, 1.8),
    ((4, 64, 56, 56), RESNET, torch.contiguous_format, None),
    ((16, 32, 40, 40), TWO, torch.channels_last, None),
    ((4, 64, 56, 56), RESNET, torch.channels_last, None),
]


def rows():
    for shape, window, layout, target in SHAPES:
        x = torch.randn(shape).to(memory_format=layout).requires_grad_()
        k, s = window["kernel_size"], window.get("stride", window["kernel_size"])
        yield Row(
            f"max_pool2d {k}x{k}/{s}",
            f"({','.join(map(str, shape))}){' NHWC' if layout == torch.channels_last else ''}",
            step(lambda x, w=window: stock.max_pool2d(x, **w), x),
            step(lambda x, w=window: F.max_pool2d(x, **w), x),
            target,
        )
