"""cross_entropy: (rows, classes) from LeNet's last layer to a language model's vocabulary."""

import math

import torch
from torch.nn import functional as stock

from torchext.nn import functional as ours

from .harness import Cost, Peer, Size, bench, leaf
from .roof import Work

BF16 = torch.bfloat16
SIZES = (
    Size((4, 4)),
    Size((64, 10), typical=True),
    Size((256, 10)),
    Size((4096, 10)),
    Size((4096, 1000)),
    Size((512, 32000)),
    Size((256, 10), dtype=BF16),
    Size((4096, 1000), dtype=BF16),
    Size((8192, 32768), dtype=BF16, device="cuda"),
    Size((4096, 131072), dtype=BF16, device="cuda"),
)


def cost(s, rows, classes, *positions, **options):
    """Logits read forward, read again and the gradient written backward; 8 bytes of label per row each time."""
    rows *= math.prod(positions)
    logits, labels = s * rows * classes, 8 * rows
    return Cost(Work(logits + labels), Work(2 * logits + labels))


def liger(x, labels):
    from liger_kernel.transformers.functional import liger_cross_entropy

    return liger_cross_entropy(x.clone(), labels)  # it writes the gradient over its input


def quack(x, labels):
    from quack.cross_entropy import cross_entropy

    return cross_entropy(x, labels, reduction="mean")


def label(*shape, label_smoothing=0.0):
    return f"({','.join(map(str, shape))})" + f" smoothing {label_smoothing}" * (label_smoothing > 0)


test_cross_entropy = bench(
    "cross_entropy",
    sizes=SIZES,
    label=label,
    tensors=lambda rows, classes, *positions: [
        leaf(rows, classes, *positions),
        torch.randint(classes, (rows, *positions)),
    ],
    providers={
        "stock": stock.cross_entropy,
        "torchext": ours.cross_entropy,
        "Liger": Peer(liger),
        "quack": Peer(quack),
    },
    cost=cost,
)
