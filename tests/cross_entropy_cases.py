"""What the tests of cross_entropy have in common: targets for a shape of logits, and ours beside stock's."""

import torch
from torch.nn import functional as stock_F

from torchext.nn import functional as F

REDUCTIONS = ("none", "mean", "sum")


def class_sizes(shape):
    """The shape of the positions, and the number of classes."""
    return (shape[:1] + shape[2:], shape[1]) if len(shape) > 1 else ((), shape[0])


def indices(shape, ignored=-100):
    positions, classes = class_sizes(shape)
    target = torch.randint(classes, positions)
    if target.numel() > 2:
        target.view(-1)[1] = ignored
    return target


def probabilities(shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).softmax(min(1, len(shape) - 1)).to(dtype)


def both(target, weight=None, **options):
    """Ours and stock's, as functions of the logits; constants follow the logits' dtype."""

    def bound(function):
        def call(x, *moving):
            chosen = moving[0] if moving else target
            chosen = chosen.to(x.dtype) if chosen.is_floating_point() else chosen
            return function(x, chosen, weight=None if weight is None else weight.to(x.dtype), **options)

        return call

    return bound(F.cross_entropy), bound(stock_F.cross_entropy)
