"""linear_cross_entropy: (rows, hidden)->classes of language models; stock is torch 2.13's own chunked path, or, before
2.13, the two calls one after the other."""

import torch
from torch import nn
from torch.nn import functional as stock

from torchext.nn import functional as ours

from .harness import Cost, Size, bench, leaf
from .roof import Work

SIZES = (
    Size((64, 64, 10)),
    Size((512, 256, 8000), typical=True),
    Size((256, 512, 32000)),
    Size((4096, 1024, 32000), device="cuda"),
)


def tensors(n, k, c):
    return [leaf(n, k), leaf(c, k), torch.randint(c, (n,))]


def cost(s, n, k, c):
    """Hidden states, weight and their gradients once, no logits. Three products, all in the forward."""
    operands, product = s * (n * k + c * k), 2 * n * k * c
    return Cost(Work(2 * operands + 8 * n, 3 * product), Work(2 * operands))


def chunked(x, w, labels):
    if not hasattr(stock, "linear_cross_entropy"):
        return stock.cross_entropy(stock.linear(x, w), labels)
    return stock.linear_cross_entropy(x, w, labels, options=nn.LinearCrossEntropyOptions())


test_linear_cross_entropy = bench(
    "linear_cross_entropy",
    sizes=SIZES,
    label=lambda n, k, c: f"({n},{k})->{c}",
    tensors=tensors,
    providers={"stock": chunked, "torchext": ours.linear_cross_entropy},
    cost=cost,
)
