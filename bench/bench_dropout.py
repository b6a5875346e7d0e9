"""dropout: from call overhead to a million elements, beyond which page faults decide; and whole channels."""

import torch
from torch.nn import functional as stock

from torchext.nn import functional as ours

from .harness import Cost, Size, bench, leaf
from .roof import Work

HALF = {"p": 0.5}
SIZES = (
    Size((16,), HALF),
    Size((4096,), HALF),
    Size((65536,), HALF, typical=True),
    Size((1048576,), HALF),
    Size((65536,), HALF, dtype=torch.bfloat16),
    Size((1048576,), HALF, dtype=torch.bfloat16),
    Size((1 << 28,), HALF, dtype=torch.bfloat16, device="cuda"),
)
CHANNELS = (Size((64, 16, 28, 28), HALF, typical=True), Size((64, 64, 28, 28), HALF))


def label(*shape, p):
    return f"({','.join(map(str, shape))}) p={p}"


def cost(s, *shape, p):
    """Read once and written once in each direction; the mask is regenerated."""
    once = Work(2 * s * torch.Size(shape).numel())
    return Cost(once, once)


def exact(y, x, p):
    """x / (1-p) where y kept it; everywhere, and so far from y, if y kept a share that chance rules out."""
    kept = y != 0
    draws = x.numel() if x.dim() == 1 else x.shape[0] * x.shape[1]
    likely = abs(kept.double().mean().item() - (1 - p)) < 6 * (p * (1 - p) / draws) ** 0.5
    return x * (kept if likely else 1) / (1 - p)


test_dropout = bench(
    "dropout",
    sizes=SIZES,
    label=label,
    tensors=lambda *shape: [leaf(*shape)],
    providers={"stock": stock.dropout, "torchext": ours.dropout},
    cost=cost,
    exact=exact,
)
test_dropout2d = bench(
    "dropout2d",
    sizes=CHANNELS,
    label=label,
    tensors=lambda *shape: [leaf(*shape)],
    providers={"stock": stock.dropout2d, "torchext": ours.dropout2d},
    cost=cost,
    exact=exact,
)
