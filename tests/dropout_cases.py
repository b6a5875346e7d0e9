"""What the tests of dropout and alpha_dropout have in common: ours beside stock's, layouts, a mask that repeats."""

import torch
from torch.nn import functional as stock_F

from torchext.nn import functional as F

FUNCTIONS = {"dropout": (F.dropout, stock_F.dropout), "alpha_dropout": (F.alpha_dropout, stock_F.alpha_dropout)}
LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "permuted": lambda t: t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "sliced": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "expanded": lambda t: t[:1].expand(t.shape),
    "misaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
}


def seed_of(value):
    return torch.tensor(value, dtype=torch.int64)


def alpha(p):
    """scale, shift, fill: Klambauer et al., Self-normalizing neural networks, 2017."""
    limit = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717
    a = (1 - p + limit**2 * p * (1 - p)) ** -0.5
    b = -a * p * limit
    return a, b, a * limit + b


def fixed(function, **options):
    """The function, drawing the same mask at every call."""

    def call(x):
        torch.manual_seed(5)
        return function(x, 0.4, True, **options)

    return call
