"""dropout: from call overhead to a million elements, beyond which page faults decide."""

import torch
from torch.nn import functional as stock

from torchext.nn import functional as F

from .harness import Row, step

SIZES = {16: None, 4096: None, 65536: 15.0, 1048576: 15.0}


def rows():
    for size, target in SIZES.items():
        x = torch.randn(size, requires_grad=True)
        yield Row(
            "dropout 0.5",
            f"({size},)",
            step(lambda x: stock.dropout(x, 0.5), x),
            step(lambda x: F.dropout(x, 0.5), x),
            target,
        )
    x = torch.randn(64, 64, 28, 28, requires_grad=True)
    yield Row("dropout2d 0.5", "(64,64,28,28)", step(stock.dropout2d, x), step(F.dropout2d, x))
