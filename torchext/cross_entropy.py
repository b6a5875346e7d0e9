"""cross_entropy: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from ._choice import MEASURED, note_ours
from ._counterpart import Counterpart
from ._cross_entropy_backward import (
    NONE,
    cross_entropy_backward,
    factor,
    gradient_from_logits,
    gradient_of_gradient,
    gradient_of_one,
    is_plain,
    scaled,
    target_gradient,
)
from ._cross_entropy_plan import ALL_NAMES, NAMES, REDUCTIONS, WANTS, decide, why_stocks
from ._gate import call_stock, drop_in
from ._op import Function, define, twice_differentiable, wants_grad
from ._private import cross_entropy_loss, legacy_reduction
from ._scripting import stock_method
from ._table import STOCK


def _fake(x, target, weight, ignore_index, label_smoothing, reduction):
    positions = x.shape[:1] + x.shape[2:] if x.dim() > 1 else ()
    loss = x.new_empty(positions if reduction == NONE else ())
    count = 1
    for size in positions:
        count = count * size
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return loss, x.new_empty((2 if target.dtype == torch.int64 else 3) * count + 1, dtype=dtype)


_cross_entropy = define(
    "cross_entropy",
    "(Tensor x, Tensor target, Tensor? weight, int ignore_index, float label_smoothing, int reduction)"
    " -> (Tensor loss, Tensor stats)",
    _fake,
)

_is_compiling = torch.compiler.is_compiling

_FEW = 1 << 16  # logits whose copy costs less than the ops that scale a gradient by rows, 35 us


class CrossEntropyOfCopyFunction(Function):
    """From the logits themselves, which forward copies: stock keeps their log_softmax, and users may edit them.

    Of probabilities, whose own gradient wants the logits; of float16, where what a loss scale in dloss lifts out of the
    subnormal range would be lost from a gradient made before; of few logits without reduction; and on a GPU, where
    three launches to scale a gradient cost more than one to copy. A compiled graph's values are nobody's to edit.
    """

    @classmethod
    def call(cls, x, target, weight, options):
        if _is_compiling():
            return cls.apply(x, target, weight, options)
        if target.is_floating_point() and options[1] != 0:  # stock keeps the smoothed ones
            target = target.clone()
        return super().call(x.clone(), target, weight, options)

    @staticmethod
    def forward(ctx, x, target, weight, options):
        loss, stats = _cross_entropy(x, target, weight, *options)
        ctx.save_for_backward(x, *((target, weight, stats) if ctx.needs_input_grad[0] else (None, weight, None)))
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx, dloss):
        x, target, weight, stats = ctx.saved_tensors
        need_dx, need_dtarget, *_ = ctx.needs_input_grad
        dx = dtarget = None
        if need_dx and (twice_differentiable() or not (_is_compiling() or is_plain(dloss))):
            dx = gradient_from_logits(dloss, x, target, weight, ctx.options)
        elif need_dx:
            dx = cross_entropy_backward(dloss, x, target, weight, stats, *ctx.options)
        if need_dtarget:
            dtarget = target_gradient(dloss, x, weight, *ctx.options[1:])
        return dx, dtarget, None, None


class CrossEntropyFunction(Function):
    """The gradient for a dloss of 1 is made in forward and all that backward needs.

    It is a second result that nobody sees, so that what comes of it in a backward can be differentiated.
    """

    @classmethod
    def call(cls, x, target, weight, options):
        few = options[2] == NONE and x.numel() <= _FEW
        if few or x.is_cuda or target.is_floating_point() or x.dtype is torch.float16 or _is_compiling():
            return CrossEntropyOfCopyFunction.call(x, target, weight, options)
        return super().call(x, target, weight, options)[0]

    @staticmethod
    def forward(ctx, x, target, weight, options):
        loss, stats = _cross_entropy(x, target, weight, *options)
        g = gradient_of_one(x, target, weight, stats, options)
        ctx.save_for_backward(g, target, weight)
        ctx.options = options
        return loss, g

    @staticmethod
    def backward(ctx, dloss, v):
        g, target, weight = ctx.saved_tensors
        dx = None

        def factors():
            return (factor(dloss, g, target, ctx.options[0]),)

        if v is not None:
            dx = gradient_of_gradient(v, g, target, weight, ctx.options)
        if v is not None or twice_differentiable():
            if dloss is not None:
                dx = g * factors()[0] if dx is None else dx + g * factors()[0]
        elif dloss is not None:
            (dx,) = scaled([g.detach()], dloss, factors)
        return dx, None, None, None


@drop_in(F.cross_entropy, WANTS)
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Softmax cross-entropy of logits. Counterpart of :func:`torch.nn.functional.cross_entropy`.

    :math:`-\sum_j q_j \log \mathrm{softmax}(x)_j` at every position, :math:`q` the target weights of the classes.
    Saves no more than stock, which keeps the log-probabilities: of class indices in float64, float32 and bfloat16 the
    gradient, which forward makes; else a copy of ``input`` and two or three numbers a position.

    Args:
        input: :math:`x`, ``[n, c, ...]`` or ``[c]``; float64, float32, bfloat16 or float16 for ours, else stock's.
        target: class indices, int64 ``[n, ...]``, each in ``[0, c)`` or ``ignore_index``; or class probabilities,
            shaped like ``input``.
        weight: of each class, ``[c]``, or None.
        size_average, reduce: deprecated; as in torch they override ``reduction``.
        ignore_index: the index of positions that count for nothing.
        reduction: "mean" (over the weights of the targets not ignored), "sum" or "none".
        label_smoothing: the share of every target, 0 to 1, that is spread over all classes.

    Returns:
        The loss, a scalar or, for "none", ``[n, ...]``. The mean of nothing is NaN, and its gradient 0;
        so is the mean over targets whose weights are all 0, and its gradient NaN.

    Raises:
        IndexError: an index is neither in ``[0, c)`` nor ``ignore_index``.
        RuntimeError, ValueError: the arguments do not fit together.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(0.6931)
    """
    decided, route = decide(input, target, reduction)
    plain = isinstance(reduction, str) and reduction in REDUCTIONS and size_average is reduce is None
    if route == STOCK and plain and not _is_compiling():
        arguments = input, target, weight, REDUCTIONS[reduction], ignore_index, label_smoothing
        return call_stock("cross_entropy", MEASURED, decided, WANTS, cross_entropy_loss, NAMES, *arguments)
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    if torch.is_autocast_enabled("cuda" if isinstance(input, Tensor) and input.is_cuda else "cpu"):
        input, target, weight = _float32(input), _float32(target), _float32(weight)
    why = why_stocks(input, target, weight, ignore_index, label_smoothing, reduction)
    if why is not None or route == STOCK:
        named = weight, None, ignore_index, None, reduction, label_smoothing
        why, stock = why or MEASURED, F.cross_entropy
        return call_stock("cross_entropy", why, decided, WANTS, stock, ALL_NAMES, input, target, *named)
    note_ours("cross_entropy", "cross_entropy", input, decided)
    options = ignore_index, label_smoothing, REDUCTIONS[reduction]
    try:
        if wants_grad(input, target):
            return CrossEntropyFunction.call(input, target, weight, options)
        return _cross_entropy(input, target, weight, *options)[0]
    except RuntimeError as error:
        if "is out of bounds" in str(error):
            raise IndexError(str(error)) from None
        raise


def _float32(t):
    return t.float() if isinstance(t, Tensor) and t.dtype in (torch.bfloat16, torch.float16) else t


class CrossEntropyLoss(nn.CrossEntropyLoss, metaclass=Counterpart):
    """:class:`torch.nn.CrossEntropyLoss` on our kernels: same arguments and state_dict; see :func:`cross_entropy`.

    Example:
        >>> from torchext import nn
        >>> nn.CrossEntropyLoss()(torch.zeros(2, 4), torch.tensor([1, 3]))
        tensor(1.3863)
    """

    _stock_forward = stock_method(nn.CrossEntropyLoss.forward)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if is_scripting():
            return self._stock_forward(input, target)
        return cross_entropy(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
