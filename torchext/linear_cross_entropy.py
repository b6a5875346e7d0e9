"""linear_cross_entropy: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _linear_cross_entropy_stock
from ._choice import MEASURED, note_ours
from ._counterpart import Counterpart
from ._cross_entropy_backward import NONE, scaled
from ._cross_entropy_plan import REDUCTIONS
from ._gate import call_stock, drop_in
from ._linear_cross_entropy_backward import (
    Held,
    factors,
    fake_gradients,
    linear_cross_entropy_backward,
    recompute,
    stock_saves,
)  # fmt: skip
from ._linear_cross_entropy_plan import NAMES, OPTIONS, WANTS, chunk_of, decide, why_stocks
from ._op import Function, define, twice_differentiable, wants_grad
from ._private import keeps_graph
from ._table import STOCK

_is_compiling = torch.compiler.is_compiling


def _fake(x, w, b, target, weight, ignore_index, label_smoothing, reduction, chunk, want_dx, want_dw, want_db):
    shape = (x.shape[0], *w.shape[1:-1])
    positions = shape[0]
    for size in shape[1:]:
        positions = positions * size
    stats = (2 if target.dtype == torch.int64 else 3) * positions + 1
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (
        x.new_empty(shape if reduction == NONE else ()),
        x.new_empty(stats, dtype=dtype),
        *fake_gradients(x, w, b, want_dx, want_dw, want_db),
    )


# x: [n, k]; w: [c, ..., k]; b: [c, ...]; `chunk` rows of x at a time.
_linear_cross_entropy = define(
    "linear_cross_entropy",
    "(Tensor x, Tensor w, Tensor? b, Tensor target, Tensor? weight, int ignore_index, float label_smoothing,"
    " int reduction, int chunk, bool want_dx, bool want_dw, bool want_db)"
    " -> (Tensor loss, Tensor stats, Tensor dx, Tensor dw, Tensor db)",
    _fake,
)


class LinearCrossEntropyAnewFunction(Function):
    """Backward makes the logits anew: where dloss differs from row to row, and in 16 bits, where what a loss scale in
    dloss lifts out of the subnormal range would be lost from a gradient made before.

    What that reads and stock does not keep it copies; a compiled graph's values are nobody's to edit.
    """

    @classmethod
    def call(cls, x, w, b, target, weight, options):
        inputs = x, w, b, target, weight
        if _is_compiling():
            return cls.apply(*inputs, options)
        kept = stock_saves(x.requires_grad, w.requires_grad, target, options[1])
        return super().call(*(t if t is None or keep else t.clone() for t, keep in zip(inputs, kept)), options)

    @staticmethod
    def forward(ctx, x, w, b, target, weight, options):
        loss, stats, *_ = _linear_cross_entropy(x, w, b, target, weight, *options, False, False, False)
        ctx.save_for_backward(x, w, b, target, weight, stats)
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx, dloss):
        *inputs, stats = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if twice_differentiable():
            gradients = recompute(dloss, inputs, ctx.options, needed)
        else:
            gradients = linear_cross_entropy_backward(dloss, *inputs, stats, *ctx.options, *needed)
        return *(g if need else None for g, need in zip(gradients, needed)), None, None, None


class LinearCrossEntropyFunction(Function):
    """A mean's and a sum's gradient is made in forward, which has the logits, up to the factor dloss."""

    @classmethod
    def call(cls, x, w, b, target, weight, options):
        if options[2] == NONE or x.itemsize == 2 or _is_compiling():
            return LinearCrossEntropyAnewFunction.call(x, w, b, target, weight, options)
        return super().call(x, w, b, target, weight, options)

    @staticmethod
    def forward(ctx, x, w, b, target, weight, options):
        inputs, needed = (x, w, b, target, weight), ctx.needs_input_grad[:3]
        loss, _, *gradients = _linear_cross_entropy(*inputs, *options, *needed)
        kept = stock_saves(*needed[:2], target, options[1])
        ctx.held = Held([None if keep else t for t, keep in zip(inputs, kept)])
        ctx.save_for_backward(
            *(t if keep else None for t, keep in zip(inputs, kept)),
            *(g if need else None for g, need in zip(gradients, needed)),
        )
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx, dloss):
        *inputs, dx, dw, db = ctx.saved_tensors
        if twice_differentiable():
            gradients = recompute(dloss, ctx.held.beside(inputs), ctx.options, ctx.needs_input_grad[:3])
        else:  # a copy of dw would be the peak of the memory
            gradients = scaled((dx, dw, db), dloss, lambda: factors(dloss, inputs[3], ctx.options[0]))
        if not keeps_graph():
            ctx.held = None
        return *gradients, None, None, None


def _by_position(input, linear_weight, target, *options):
    return _linear_cross_entropy_stock.linear_cross_entropy(input, linear_weight, target, **dict(zip(OPTIONS, options)))


@drop_in(_linear_cross_entropy_stock.linear_cross_entropy, WANTS)
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    r"""Cross-entropy of an affine map, ``cross_entropy(linear(input, linear_weight, linear_bias), target)``, whose
    logits are never held whole. Counterpart of ``torch.nn.functional.linear_cross_entropy`` of torch 2.13.

    Rows go through in chunks. In float32 and float64 a mean's or sum's gradients are made in forward, when one of them
    is wanted, and kept for backward; else backward makes each chunk's logits anew. Second derivatives, forward-mode AD
    and ``torch.func`` transforms hold the logits.

    Args:
        input: :math:`x`, ``[n, k]`` or ``[k]``; float64, float32, bfloat16 or float16 for ours, else stock's.
        linear_weight: :math:`W`, ``[c, k]``, or ``[c, d1, ..., k]`` for a loss at ``d1 ...`` positions of every row.
        target: class indices, int64 ``[n, d1, ...]``, each in ``[0, c)`` or ``ignore_index``; or class probabilities,
            ``[n, c, d1, ...]``. Of one row without the ``n``, as ``input``.
        linear_bias: ``[c, d1, ...]``, or None.
        weight: of each class, ``[c]``, or None.
        reduction: "mean" (over the weights of the targets not ignored), "sum" or "none".
        ignore_index: the index of positions that count for nothing; None is -100, and a must for probabilities.
        label_smoothing: the share of every target, 0 to 1, that is spread over all classes.
        options: a ``torch.nn.LinearCrossEntropyOptions``: of it ours follows ``batch_chunk_size``, the rows of a chunk
            (None: a quarter of ``linear_weight``'s memory in logits, or 32 MiB). A second backward is always allowed.

    Returns:
        The loss, a scalar or, for "none", ``[n, d1, ...]``. The mean of nothing is NaN, and its gradient 0;
        so is the mean over targets whose weights are all 0, and its gradient NaN.

    Raises:
        IndexError: an index is neither in ``[0, c)`` nor ``ignore_index``.
        RuntimeError, ValueError: the arguments do not fit together.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.linear_cross_entropy(torch.ones(2, 3), torch.zeros(4, 3), torch.tensor([1, 3]))
        tensor(1.3863)
    """
    why = why_stocks(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing)
    decided, route = (None, STOCK) if why is not None else decide(input, linear_weight)
    if route == STOCK:
        why, stock = why or MEASURED, _by_position
        arguments = input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, options
        return call_stock("linear_cross_entropy", why, decided, WANTS, stock, NAMES, *arguments)
    note_ours("linear_cross_entropy", "linear_cross_entropy", input, decided)
    x, t = (input, target) if input.dim() == 2 else (input.unsqueeze(0), target.unsqueeze(0))
    call = x, linear_weight, linear_bias, t, weight
    ignored = -100 if ignore_index is None else ignore_index
    chosen = ignored, label_smoothing, REDUCTIONS[reduction], chunk_of(x, linear_weight, options)
    try:
        if wants_grad(x, linear_weight, linear_bias):
            loss = LinearCrossEntropyFunction.call(*call, chosen)
        else:
            loss = _linear_cross_entropy(*call, *chosen, False, False, False)[0]
    except RuntimeError as error:
        if "is out of bounds" in str(error):
            raise IndexError(str(error)) from None
        raise
    return loss if input.dim() == 2 or reduction != "none" else loss.squeeze(0)


class LinearCrossEntropyLoss(_linear_cross_entropy_stock.LinearCrossEntropyLoss, metaclass=Counterpart):
    """``torch.nn.LinearCrossEntropyLoss`` on our kernels: same arguments and state_dict; see
    :func:`linear_cross_entropy`. Before torch 2.13, which has none, an ``nn.Module`` of the same arguments.

    Example:
        >>> from torchext import nn
        >>> round(nn.LinearCrossEntropyLoss(3, 4)(torch.zeros(2, 3), torch.tensor([1, 3])).item(), 4)
        1.3863
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        shape = self.num_classes, *self.out_features
        bias = self.linear.bias
        return linear_cross_entropy(
            input, self.linear.weight.reshape((*shape, self.linear.in_features)), target,
            linear_bias=None if bias is None else bias.reshape(shape), weight=self.weight, reduction=self.reduction,
            ignore_index=self.ignore_index, label_smoothing=self.label_smoothing, options=self.options,
        )  # fmt: skip
