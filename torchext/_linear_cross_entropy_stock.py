"""torch's linear_cross_entropy and its module; and what stands in for them before torch 2.13, which has none."""

from __future__ import annotations

import math

from torch import nn
from torch.nn import functional as F

from . import _observers
from ._linear_cross_entropy_backward import logits


def linear_cross_entropy(
    input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=None,
    label_smoothing=0.0, options=None,
):  # fmt: skip
    """torch's own, on a torch that has it; its chunked path knows no transforms."""
    if hasattr(F, "linear_cross_entropy"):
        plain = _observers.transform() is not None
        return F.linear_cross_entropy(
            input, linear_weight, target, linear_bias=linear_bias, weight=weight, reduction=reduction,
            ignore_index=ignore_index, label_smoothing=label_smoothing, options=None if plain else options,
        )  # fmt: skip
    if ignore_index is not None and target.shape == input.shape[:-1] + linear_weight.shape[:-1]:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    ignore_index = -100 if ignore_index is None else ignore_index
    return F.cross_entropy(
        logits(input, linear_weight, linear_bias), target, weight,
        ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction,
    )  # fmt: skip


class _LinearCrossEntropyLoss(nn.CrossEntropyLoss.__base__):
    """The base class where torch has none of its own, before 2.13: the same arguments and state_dict."""

    def __init__(
        self, in_features, num_classes, *, out_features=(), bias=False, device=None, dtype=None, reduction="mean",
        weight=None, ignore_index=None, label_smoothing=0.0, options=None,
    ):  # fmt: skip
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(f"expected weight shape to be {(num_classes,)}, got {tuple(weight.shape)}")
        if not 0 <= label_smoothing <= 1:
            raise RuntimeError(f"expected label_smoothing to be in range [0, 1], got {label_smoothing}")
        super().__init__(weight, None, None, reduction)
        self.num_classes, self.out_features = num_classes, out_features
        self.ignore_index, self.label_smoothing, self.options = ignore_index, label_smoothing, options
        rows = math.prod(out_features, start=num_classes)
        self.linear = nn.Linear(in_features, rows, bias=bias, device=device, dtype=dtype)

    def extra_repr(self):
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, out_features={self.out_features},"
            f" bias={self.linear.bias is not None}, reduction={self.reduction}, ignore_index={self.ignore_index},"
            f" label_smoothing={self.label_smoothing}, options={self.options}"
        )


LinearCrossEntropyLoss = getattr(nn, "LinearCrossEntropyLoss", _LinearCrossEntropyLoss)
