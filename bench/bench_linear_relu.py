"""linear and linear_relu: (m, k, n) from call overhead (4x4) over LeNet's and the MLP's layers to a large product."""

import torch
from torch.nn import functional as stock

from torchext.nn import functional as F

from .harness import Row, step

SHAPES = {
    (4, 4, 4): 1.0,
    (64, 256, 120): 1.0,
    (64, 120, 84): 1.0,
    (100, 784, 500): 1.0,
    (512, 256, 120): 1.0,
    (256, 1024, 1024): 1.6,
}
PLAIN = {(4, 4, 4): None, (64, 84, 10): 1.0, (100, 500, 10): 1.0, (64, 784, 10): 1.0}


def stock_linear_relu(x, w, b):
    return stock.relu(stock.linear(x, w, b))


def rows():
    for op, ours, theirs, shapes in (
        ("linear_relu", F.linear_relu, stock_linear_relu, SHAPES),
        ("linear", F.linear, stock.linear, PLAIN),
    ):
        for (m, k, n), target in shapes.items():
            inputs = [torch.randn(*shape, requires_grad=True) for shape in ((m, k), (n, k), (n,))]
            yield Row(op, f"({m},{k})->{n}", step(theirs, *inputs), step(ours, *inputs), target)
