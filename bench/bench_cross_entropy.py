"""cross_entropy: (rows, classes) from LeNet's last layer to a language model's vocabulary."""

import torch
from torch.nn import functional as stock

from torchext.nn import functional as F

from .harness import Row, step

SHAPES = {(4, 4): None, (64, 10): None, (256, 10): 3.0, (4096, 10): None, (4096, 1000): 2.5, (512, 32000): 2.5}


def rows():
    for (n, c), target in SHAPES.items():
        x, labels = torch.randn(n, c, requires_grad=True), torch.randint(c, (n,))
        yield Row(
            "cross_entropy",
            f"({n},{c})",
            step(lambda x, t=labels: stock.cross_entropy(x, t), x),
            step(lambda x, t=labels: F.cross_entropy(x, t), x),
            target,
        )
