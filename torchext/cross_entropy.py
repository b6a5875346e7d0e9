"""cross_entropy: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _route
from ._op import Function, define, recompute_backward, twice_differentiable, wants_grad

_NONE, _MEAN = 0, 1
_REDUCTIONS = {"none": _NONE, "mean": _MEAN, "sum": 2}


def _fake(x, target, weight, ignore_index, label_smoothing, reduction):
    if reduction == _NONE:
        loss = x.new_empty(x.shape[:1] + x.shape[2:] if x.dim() > 1 else ())
    else:
        loss = x.new_empty(())
    columns = x.shape[1] if x.dim() > 1 else x.shape[0]
    positions = 1 if x.dim() == 1 else x.shape[0]
    for size in x.shape[2:]:
        positions = positions * size
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    saved = 2 if target.dtype == torch.int64 else 3
    return loss, x.new_empty(saved * positions + 1, dtype=wide)


def _classes_last(t):
    return t.dim() > 2 and t.movedim(1, -1).is_contiguous()


def _fake_backward(dloss, x, target, weight, stats, ignore_index, label_smoothing, reduction):
    if x.is_contiguous() or (_classes_last(x) and (target.dtype == torch.int64 or _classes_last(target))):
        return torch.empty_like(x)
    return x.new_empty(x.shape)


_cross_entropy = define(
    "cross_entropy",
    "(Tensor x, Tensor target, Tensor? weight, int ignore_index, float label_smoothing, int reduction)"
    " -> (Tensor loss, Tensor stats)",
    _fake,
)
_cross_entropy_backward = define(
    "cross_entropy_backward",
    "(Tensor dloss, Tensor x, Tensor target, Tensor? weight, Tensor stats, int ignore_index, float label_smoothing,"
    " int reduction) -> Tensor",
    _fake_backward,
)


class CrossEntropyFunction(Function):
    @staticmethod
    def forward(ctx, x, target, weight, ignore_index, label_smoothing, reduction):
        loss, stats = _cross_entropy(x, target, weight, ignore_index, label_smoothing, reduction)
        ctx.save_for_backward(x, target, weight, stats)
        ctx.options = ignore_index, label_smoothing, reduction
        return loss

    @staticmethod
    def backward(ctx, dloss):
        x, target, weight, stats = ctx.saved_tensors
        return _cross_entropy_backward(dloss, x, target, weight, stats, *ctx.options), None, None, None, None, None


def cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    return CrossEntropyFunction.call(input, target, weight, ignore_index, label_smoothing, _REDUCTIONS[reduction])
