"""What the backward of a product keeps: x for w's gradient and w for x's; of what it does not need the sizes alone."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.function import FunctionCtx


def keep(ctx: FunctionCtx, x: Tensor, w: Tensor, *rest: Tensor | None) -> None:
    """Saves what the gradients asked for are made of, and `rest`; of x or w without use its sizes and strides alone."""
    needed = ctx.needs_input_grad
    kept_x = kept_w = None
    if needed[1]:
        kept_x = x
    else:
        ctx.x_form = x.shape, x.stride()
    if needed[0]:
        kept_w = w
    else:
        ctx.w_form = w.shape, w.stride()
    ctx.save_for_backward(kept_x, kept_w, *rest)


def kept(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor | None, ...]:
    """x, w and the rest. Memory that nobody writes or reads stands in for what was not saved: our ops ask its sizes."""
    x, w, *rest = ctx.saved_tensors
    if x is None:
        x = dy.new_empty_strided(*ctx.x_form)
    if w is None:
        w = dy.new_empty_strided(*ctx.w_form)
    return x, w, *rest
