"""Backward of cross_entropy, to any order, from a gradient that forward made or from logits that nobody else can edit.

Let q_j be what class j's log-probability weighs in a position's loss, Q = sum_j q_j and p = softmax(x). A dloss of 1
gives x g = Q p - q, so that Q p = g + q is known from g; and of <g, v> x has the gradient Q p (v - <p, v>).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._observers import transform
from ._op import define
from ._private import is_batch, keeps_graph

NONE, MEAN, SUM = 0, 1, 2
_is_compiling = torch.compiler.is_compiling


def classes_last(t):
    return t.dim() > 2 and t.movedim(1, -1).is_contiguous()


def _fake_backward(dloss, x, target, weight, stats, ignore_index, label_smoothing, reduction):
    if x.is_contiguous() or (classes_last(x) and (target.dtype == torch.int64 or classes_last(target))):
        return torch.empty_like(x)
    return x.new_empty(x.shape)


cross_entropy_backward = define(
    "cross_entropy_backward",
    "(Tensor dloss, Tensor x, Tensor target, Tensor? weight, Tensor stats, int ignore_index, float label_smoothing,"
    " int reduction) -> Tensor",
    _fake_backward,
)
_ONE = {dtype: torch.ones((), dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64, torch.bfloat16)}


def gradient_of_one(x, target, weight, stats, options):
    """g; of reduction "none" every position's."""
    ignore_index, label_smoothing, reduction = options
    one = _ONE[x.dtype] if x.is_cpu else x.new_ones(())
    reduction = SUM if reduction == NONE else reduction
    return cross_entropy_backward(one, x, target, weight, stats, ignore_index, label_smoothing, reduction)


def is_plain(dloss) -> bool:
    """Whether it is one gradient, no batch of them, and nobody differentiates along it."""
    return type(dloss) is Tensor and not (is_batch(dloss) or transform() is not None or _is_compiling())


def scaled(gradients, dloss, factors):
    """Each that is there times dloss, in place where the graph is freed after this: nobody else sees them.

    `factors()` gives a dloss for each, with 0 in place of a NaN or infinity where nothing counts, as stock's gradients
    have it. On a GPU to look for one were to wait for the device.
    """
    plain = is_plain(dloss)
    kept = keeps_graph() or not plain
    if plain and dloss.is_cpu and dloss.dim() == 0 and math.isfinite(number := dloss.item()):
        if number == 1 and not kept:
            return gradients
        return [g if g is None else g * number if kept else g.mul_(number) for g in gradients]
    return [g if g is None else g * f if kept else g.mul_(f) for g, f in zip(gradients, factors())]


def _classes_dim(x):
    return 1 if x.dim() > 1 else 0


def factor(dloss, x, target, ignore_index):
    """dloss for every position, [n, 1, ...]; 0 where it counts for nothing."""
    if target.dtype == torch.int64:
        dloss = torch.where(target == ignore_index, 0, dloss)
    return dloss.unsqueeze(_classes_dim(x)) if dloss.dim() else dloss


def shares(x, target, weight, options):
    """q of every position, shaped like x, and Q; in float32 where x has 16 bits."""
    ignore_index, label_smoothing, reduction = options
    classes, index = _classes_dim(x), target.dtype == torch.int64
    q = x.detach().double() if x.dtype == torch.float64 else x.detach().float()
    weight = q.new_ones(x.shape[classes]) if weight is None else weight.to(q.dtype)
    divisor = x.numel() // x.shape[classes]
    if index:
        ignored = target == ignore_index
        target = target.masked_fill(ignored, 0)
        divisor = weight[target].masked_fill(ignored, 0).sum()
        target = torch.zeros_like(q).scatter_(classes, target.unsqueeze(classes), 1)
    q = target * (1 - label_smoothing) + label_smoothing / x.shape[classes]
    q = q * weight.view(-1, *[1] * (x.dim() - classes - 1))
    q = q / divisor if reduction == MEAN else q
    q = q.masked_fill(ignored.unsqueeze(classes), 0) if index else q
    return q, q.sum(classes, keepdim=True)


def gradient_from_logits(dloss, x, target, weight, options):
    """dx by ATen's ops, for who differentiates it or has batches of dloss."""
    q, total = shares(x, target, weight, options)
    p = x.softmax(_classes_dim(x), dtype=q.dtype)
    return ((total * p - q) * factor(dloss, x, target, options[0])).to(x.dtype)


def gradient_of_gradient(v, g, target, weight, options):
    """What <g, v> gives the logits, by ATen's ops, from g."""
    q, total = shares(g, target, weight, options)
    p, classes = g + q, _classes_dim(g)
    mean = (p * v).sum(classes, keepdim=True) / total.masked_fill(total == 0, 1)
    return (p * (v - mean)).to(g.dtype)


def target_gradient(dloss, x, weight, label_smoothing, reduction):
    """Of probabilities."""
    classes = _classes_dim(x)
    gradient = x.log_softmax(classes) * (label_smoothing - 1)
    if weight is not None:
        gradient = gradient * weight.view(-1, *[1] * (x.dim() - classes - 1))
    if reduction == MEAN:
        dloss = dloss / (x.numel() // x.shape[classes])
    return gradient * (dloss.unsqueeze(classes) if reduction == NONE else dloss)
