"""batch_norm_relu_max_pool2d in training: the layers of the courses' CNN with batch norm, and a ResNet's stem."""

import torch
from torch.nn import functional as stock

from torchext.nn import functional as ours

from .harness import Cost, Size, bench, leaf
from .roof import Work

NHWC = torch.channels_last
TWO = {"kernel_size": 2}
RESNET = {"kernel_size": 3, "stride": 2, "padding": 1}
SIZES = (
    Size((100, 16, 28, 28), TWO, typical=True),
    Size((100, 32, 14, 14), TWO),
    Size((8, 64, 112, 112), RESNET),
    Size((100, 16, 28, 28), TWO, layout=NHWC),
    Size((8, 64, 112, 112), RESNET, layout=NHWC),
)


def label(*shape, kernel_size, stride=None, padding=0):
    return f"({','.join(map(str, shape))}) {kernel_size}x{kernel_size}/{stride or kernel_size}"


def tensors(n, c, h, w):
    return [leaf(n, c, h, w), leaf(c), leaf(c)]


def stock_batch_norm_relu_max_pool2d(x, w, b, **window):
    return stock.max_pool2d(stock.relu(stock.batch_norm(x, None, None, w, b, training=True)), **window)


def batch_norm_relu_max_pool2d(x, w, b, **window):
    pool = {f"pool_{name}": value for name, value in window.items()}
    return ours.batch_norm_relu_max_pool2d(x, None, None, w, b, training=True, **pool)


def cost(s, n, c, h, w, kernel_size, stride=None, padding=0):
    """The input twice in each direction, its gradient once, output and one byte per window as in max_pool2d."""
    side = lambda size: (size + 2 * padding - kernel_size) // (stride or kernel_size) + 1
    pooled = (s + 1) * side(h) * side(w)
    return Cost(Work(n * c * (2 * s * h * w + pooled)), Work(n * c * (3 * s * h * w + 2 * pooled)))


test_batch_norm_relu_max_pool2d = bench(
    "batch_norm_relu_max_pool2d",
    sizes=SIZES,
    label=label,
    tensors=tensors,
    providers={"stock": stock_batch_norm_relu_max_pool2d, "torchext": batch_norm_relu_max_pool2d},
    cost=cost,
)
