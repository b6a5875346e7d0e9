"""What the backward of a product keeps: x for w's gradient, w for x's, and only the sizes of what it does not need."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

_is_compiling = torch.compiler.is_compiling
_filters: dict[tuple, Tensor] = {}


def keep(ctx: FunctionCtx, x: Tensor, w: Tensor, *rest: Tensor | None) -> None:
    """Saves what the wanted gradients need, and `rest`; of an x or w that none needs, its sizes and strides alone."""
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
    """x, w and the rest. An uninitialised tensor stands in for one that was not saved: our ops read only its sizes."""
    x, w, *rest = ctx.saved_tensors
    if x is None:
        x = dy.new_empty_strided(*ctx.x_form)
    if w is None:
        w = _filter_like(dy, *ctx.w_form)
    return x, w, *rest


def _filter_like(dy: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    """Of a network's first layer, kept on a CPU: every step would take 5 us to make one."""
    if not dy.is_cpu or _is_compiling() or type(dy) is not Tensor:
        return dy.new_empty_strided(shape, stride)
    key = shape, stride, dy.dtype
    found = _filters.get(key)
    if found is None:
        found = torch.empty_strided(shape, stride, dtype=dy.dtype, device="cpu")  # of no batch, if dy is one
        if len(_filters) < 64 and type(found) is Tensor and not found.is_inference():
            _filters[key] = found
    return found
