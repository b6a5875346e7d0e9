"""Backward of linear_cross_entropy: what of a call's tensors it may keep, and what does with them more than our op."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ._op import define, recompute_backward
from ._private import version
from .cross_entropy import CrossEntropyFunction


def fake_gradients(x, w, b, want_dx, want_dw, want_db):
    return (
        x.new_empty(x.shape if want_dx else 0),
        x.new_empty(w.shape if want_dw else 0),
        x.new_empty(b.shape if want_db and b is not None else 0),
    )


def _fake_backward(
    dloss, x, w, b, target, weight, stats, ignore_index, label_smoothing, reduction, chunk, want_dx, want_dw, want_db
):
    return fake_gradients(x, w, b, want_dx, want_dw, want_db)


linear_cross_entropy_backward = define(
    "linear_cross_entropy_backward",
    "(Tensor dloss, Tensor x, Tensor w, Tensor? b, Tensor target, Tensor? weight, Tensor stats, int ignore_index,"
    " float label_smoothing, int reduction, int chunk, bool want_dx, bool want_dw, bool want_db)"
    " -> (Tensor dx, Tensor dw, Tensor db)",
    _fake_backward,
)


def stock_saves(needs_dx, needs_dw, target, label_smoothing):
    """Of x, w, b, target and weight; of probabilities that are smoothed it keeps the result."""
    return needs_dw, needs_dx, False, target.dtype == torch.int64 or label_smoothing == 0, True


class Held:
    """What backward needs only to be differentiated, and stock's not at all: users may edit it in place."""

    def __init__(self, tensors):
        self.tensors = tensors
        self.versions = self._versions()

    def _versions(self):
        return [None if t is None or t.is_inference() else version(t) for t in self.tensors]

    def beside(self, saved):
        if self._versions() != self.versions:
            raise RuntimeError(
                "linear_cross_entropy: a tensor that create_graph=True needs has been modified by an inplace operation"
            )
        return [t if held is None else held for t, held in zip(saved, self.tensors)]


def logits(x, w, b):
    z = F.linear(x, w.flatten(0, -2), None if b is None else b.flatten())
    return z.reshape(*x.shape[:-1], *w.shape[:-1])


def recompute(dloss, inputs, options, needed):
    """Gradients that can be differentiated again, by way of all logits."""
    *moving, target, weight = inputs

    def loss(x, w, b):
        return CrossEntropyFunction.call(logits(x, w, b), target, weight, options[:3])

    return recompute_backward(loss, moving, dloss, needed)


def factors(dloss, target, ignore_index):
    """dloss for dx, dw and db, 0 where no position counts; target None is one of probabilities that was not kept."""
    if target is None or target.dtype != torch.int64:
        return dloss, dloss, dloss
    counted = target != ignore_index
    of_rows = counted.any(tuple(range(1, counted.dim()))) if counted.dim() > 1 else counted
    of_places = torch.where(counted.any(0), dloss, 0)
    return torch.where(of_rows, dloss, 0).unsqueeze(1), of_places.unsqueeze(-1), of_places
