"""conv2d_relu_max_pool2d: the layers of bench_conv2d.py, each with ReLU and a 2 x 2 pooling."""

import functools

from torch.nn import functional as stock

from torchext.nn import functional as ours

from .bench_conv2d import SIZES, cost, label, stock_conv2d_relu, tensors
from .harness import bench


def stock_conv2d_relu_max_pool2d(x, w, b, padding=0, stride=1):
    return stock.max_pool2d(stock_conv2d_relu(x, w, b, padding, stride), 2)


def conv2d_relu_max_pool2d(x, w, b, padding=0, stride=1):
    return ours.conv2d_relu_max_pool2d(x, w, b, stride, padding, pool_kernel_size=2)


test_conv2d_relu_max_pool2d = bench(
    "conv2d_relu_max_pool2d",
    sizes=SIZES,
    label=label,
    tensors=tensors,
    providers={"stock": stock_conv2d_relu_max_pool2d, "torchext": conv2d_relu_max_pool2d},
    cost=functools.partial(cost, pooled=True),
)
