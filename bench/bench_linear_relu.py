"""linear and linear_relu: (m, k, n) from call overhead (4x4) over LeNet's and the MLP's layers to large products."""

import torch
from torch.nn import functional as stock

from torchext.nn import functional as ours

from .harness import Cost, Peer, Size, bench, leaf
from .roof import Work

BF16 = torch.bfloat16
LAYERS = (
    Size((4, 4, 4)),
    Size((64, 256, 120), typical=True),
    Size((64, 120, 84)),
    Size((100, 784, 500)),
    Size((512, 256, 120)),
    Size((256, 1024, 1024)),
    Size((64, 256, 120), dtype=BF16),
    Size((100, 784, 500), dtype=BF16),
    Size((8192, 512, 8192), dtype=BF16, device="cuda"),
    Size((8192, 8192, 8192), dtype=BF16, device="cuda"),
)
PLAIN = (
    Size((4, 4, 4)),
    Size((64, 84, 10)),
    Size((100, 500, 10), typical=True),
    Size((64, 784, 10)),
    Size((100, 500, 10), dtype=BF16),
)


def label(m, k, n):
    return f"({m},{k})->{n}"


def tensors(m, k, n):
    return [leaf(m, k), leaf(n, k), leaf(n)]


def cost(s, m, k, n):
    """Operands and results once; the backward reads dy, y's sign, x and w."""
    product = 2 * m * k * n
    return Cost(
        Work(s * (m * k + n * k + n + m * n), product),
        Work(s * (2 * m * n + 2 * m * k + 2 * n * k + n), 2 * product),
    )


def stock_linear_relu(x, w, b):
    return stock.relu(stock.linear(x, w, b))


def onednn_linear(x, w, b):
    return torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")


def onednn_linear_relu(x, w, b):
    return torch.ops.mkldnn._linear_pointwise(x, w, b, "relu", [], "")


test_linear_relu = bench(
    "linear_relu",
    sizes=LAYERS,
    label=label,
    tensors=tensors,
    providers={
        "stock": stock_linear_relu,
        "torchext": ours.linear_relu,
        "oneDNN fused": Peer(onednn_linear_relu, trains=False),
    },
    cost=cost,
)
test_linear = bench(
    "linear",
    sizes=PLAIN,
    label=label,
    tensors=tensors,
    providers={
        "stock": stock.linear,
        "torchext": ours.linear,
        "oneDNN fused": Peer(onednn_linear, trains=False),
    },
    cost=cost,
)
