"""max_pool2d: LeNet's, a small CNN's and VGG's 2x2 pools, ResNet's 3x3 stride 2; NCHW and channels_last."""

import torch
from torch.nn import functional as stock

from torchext.nn import functional as ours

from .harness import Cost, Size, bench, leaf
from .roof import Work

BF16, NHWC = torch.bfloat16, torch.channels_last
TWO = {"kernel_size": 2}
RESNET = {"kernel_size": 3, "stride": 2, "padding": 1}
SIZES = (
    Size((4, 1, 4, 4), TWO),
    Size((64, 6, 24, 24), TWO, typical=True),
    Size((64, 16, 8, 8), TWO),
    Size((16, 32, 40, 40), TWO),
    Size((64, 64, 56, 56), TWO),
    Size((4, 64, 56, 56), RESNET),
    Size((16, 32, 40, 40), TWO, layout=NHWC),
    Size((4, 64, 56, 56), RESNET, layout=NHWC),
    Size((16, 32, 40, 40), TWO, dtype=BF16),
    Size((16, 32, 40, 40), TWO, dtype=BF16, layout=NHWC),
    Size((256, 64, 112, 112), RESNET, dtype=BF16, device="cuda"),
    Size((256, 64, 112, 112), RESNET, dtype=BF16, layout=NHWC, device="cuda"),
)


def label(*shape, kernel_size, stride=None, padding=0):
    return f"({','.join(map(str, shape))}) {kernel_size}x{kernel_size}/{stride or kernel_size}"


def cost(s, n, c, h, w, kernel_size, stride=None, padding=0):
    """Input, output and one byte per window for the place of its maximum: written forward, read backward."""
    side = lambda size: (size + 2 * padding - kernel_size) // (stride or kernel_size) + 1
    once = Work(n * c * (s * h * w + (s + 1) * side(h) * side(w)))
    return Cost(once, once)


test_max_pool2d = bench(
    "max_pool2d",
    sizes=SIZES,
    label=label,
    tensors=lambda *shape: [leaf(*shape)],
    providers={"stock": stock.max_pool2d, "torchext": ours.max_pool2d},
    cost=cost,
)
