"""What the tests of linear_cross_entropy have in common: inputs of a shape, and ours beside the unfused path."""

from types import SimpleNamespace

import torch
from cross_entropy_cases import indices, probabilities
from torch.nn import functional as stock_F

from torchext.nn import functional as F

REDUCTIONS = ("none", "mean", "sum")


def unfused(x, w, b, target, weight=None, **options):
    logits = stock_F.linear(x, w.flatten(0, -2), None if b is None else b.flatten())
    return stock_F.cross_entropy(logits.view(*x.shape[:-1], *w.shape[:-1]), target, weight, **options)


def chunks(rows):
    """As LinearCrossEntropyOptions, which torch has from 2.13 on."""
    made = getattr(torch.nn, "LinearCrossEntropyOptions", SimpleNamespace)  # new in torch 2.13
    return None if rows is None else made(batch_chunk_size=rows)


def both(target, weight=None, chunk=None, **options):
    """Ours and the unfused path, as functions of (x, w) or (x, w, b); constants follow x's dtype."""

    def call(function, x, w, b, **more):
        constants = [t if t is None or not t.is_floating_point() else t.to(x.dtype) for t in (target, weight)]
        return function(x, w, b, *constants, **options, **more)

    def ours(x, w, b, target, weight, **options):
        return F.linear_cross_entropy(x, w, target, linear_bias=b, weight=weight, **options)

    return (
        lambda x, w, b=None: call(ours, x, w, b, options=chunks(chunk)),
        lambda x, w, b=None: call(unfused, x, w, b),
    )


def targets(n, c, places=(), probable=False):
    shape = (n, c, *places)
    return probabilities(shape, torch.float64) if probable else indices(shape)
