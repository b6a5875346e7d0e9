"""conv2d and conv2d_relu: the layers of LeNet and of a small CNN, and one of VGG's."""

import torch
from torch.nn import functional as stock

from torchext.nn import functional as ours

from .harness import Cost, Peer, Size, bench, leaf
from .roof import Work

BF16, NHWC = torch.bfloat16, torch.channels_last
# N, C, H, W, output channels, kernel side
LENET = (Size((64, 1, 28, 28, 6, 5), typical=True), Size((64, 6, 12, 12, 16, 5)))
CNN = (Size((100, 1, 28, 28, 16, 5), {"padding": 2}), Size((100, 16, 14, 14, 32, 5), {"padding": 2}))
VGG = (
    Size((8, 64, 56, 56, 64, 3), {"padding": 1}),
    Size((8, 64, 56, 56, 64, 3), {"padding": 1}, layout=NHWC),
)
HALF = (Size((100, 1, 28, 28, 16, 5), {"padding": 2}, dtype=BF16),)
LARGE = (
    Size((1024, 1, 28, 28, 6, 5), device="cuda"),
    Size((256, 64, 56, 56, 64, 3), {"padding": 1}, dtype=BF16, layout=NHWC, device="cuda"),
)
SIZES = (*LENET, *CNN, *VGG, *HALF, *LARGE)


def label(n, c, h, w, channels, side, padding=0, stride=1):
    return f"({n},{c},{h},{w})->{channels} {side}x{side}" + f"/{stride}" * (stride > 1)


def tensors(n, c, h, w, channels, side):
    """A network's first layer, of 1 or 3 channels, needs no input gradient."""
    x = torch.randn(n, c, h, w).requires_grad_(c > 3)
    return [x, leaf(channels, c, side, side), leaf(channels)]


def cost(s, n, c, h, w, channels, side, padding=0, stride=1, pooled=False):
    """x, w and b read, the result written; backward reads dy, x, w and writes dw, db and, past the first layer, dx.

    Pooled, only the pooled map and a byte each are written and read: the map before the pool never leaves the chip.
    """
    rows, columns = ((size + 2 * padding - side) // stride + 1 for size in (h, w))
    product = 2 * n * rows * columns * channels * c * side * side
    x, weights, y = s * n * c * h * w, s * channels * c * side * side, s * n * channels * rows * columns
    y = y // 4 * (s + 1) // s if pooled else y
    has_dx = c > 3
    return Cost(
        Work(x + weights + y, product),
        Work((1 + has_dx) * x + 2 * weights + y, (1 + has_dx) * product),
    )


def stock_conv2d_relu(x, w, b, padding=0, stride=1):
    return stock.relu(stock.conv2d(x, w, b, stride, padding))


def onednn(after):
    def run(x, w, b, padding=0, stride=1):
        sides = [padding, padding], [stride, stride], [1, 1]
        return torch.ops.mkldnn._convolution_pointwise(x, w, b, *sides, 1, after, [], "")

    return Peer(run, trains=False)


test_conv2d = bench(
    "conv2d",
    sizes=SIZES,
    label=label,
    tensors=tensors,
    providers={"stock": stock.conv2d, "torchext": ours.conv2d, "oneDNN fused": onednn("none")},
    cost=cost,
)
test_conv2d_relu = bench(
    "conv2d_relu",
    sizes=SIZES,
    label=label,
    tensors=tensors,
    providers={
        "stock": stock_conv2d_relu,
        "torchext": ours.conv2d_relu,
        "oneDNN fused": onednn("relu"),
    },
    cost=cost,
)
