"""conv2d, conv2d_relu and conv2d_relu_max_pool2d: the layers of LeNet and of a small CNN, and one of VGG's."""

import torch
from torch.nn import functional as stock

from torchext.nn import functional as F

from .harness import Row, step

# x, output channels, kernel, padding; the network's first layer needs no input gradient.
LENET = [((64, 1, 28, 28), 6, 5, 0), ((64, 6, 12, 12), 16, 5, 0)]
CNN = [((100, 1, 28, 28), 16, 5, 2), ((100, 16, 14, 14), 32, 5, 2)]
VGG = [((32, 64, 56, 56), 64, 3, 1)]


def stock_conv2d_relu(x, w, b, padding):
    return stock.relu(stock.conv2d(x, w, b, padding=padding))


def stock_conv2d_relu_max_pool2d(x, w, b, padding):
    return stock.max_pool2d(stock_conv2d_relu(x, w, b, padding), 2)


def conv2d(x, w, b, padding):
    return F.conv2d(x, w, b, padding=padding)


def conv2d_relu(x, w, b, padding):
    return F.conv2d_relu(x, w, b, padding=padding)


def conv2d_relu_max_pool2d(x, w, b, padding):
    return F.conv2d_relu_max_pool2d(x, w, b, padding=padding, pool_kernel_size=2)


CASES = [
    ("conv2d", conv2d, lambda x, w, b, p: stock.conv2d(x, w, b, padding=p), LENET + CNN + VGG, None),
    ("conv2d_relu", conv2d_relu, stock_conv2d_relu, LENET + CNN + VGG, 1.0),
    ("conv2d_relu_max_pool2d", conv2d_relu_max_pool2d, stock_conv2d_relu_max_pool2d, LENET, 3.0),
    ("conv2d_relu_max_pool2d", conv2d_relu_max_pool2d, stock_conv2d_relu_max_pool2d, CNN + VGG, None),
]


def rows():
    for op, ours, theirs, shapes, target in CASES:
        for shape, channels, kernel, padding in shapes:
            x = torch.randn(shape).requires_grad_(shape[1] > 1)
            w = torch.randn(channels, shape[1], kernel, kernel, requires_grad=True)
            b = torch.randn(channels, requires_grad=True)
            yield Row(
                op,
                f"({','.join(map(str, shape))})->{channels} {kernel}x{kernel}",
                step(lambda *t, f=theirs, p=padding: f(*t, p), x, w, b),
                step(lambda *t, f=ours, p=padding: f(*t, p), x, w, b),
                target,
            )
