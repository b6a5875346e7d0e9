"""Backward of max_pool2d, to any order: dx is dy put where each window's winner was found, linear in dy.

So the gradient of that is ddx taken from the same places, and the gradient of that is again the first. Both add nothing
in an order of chance, as ATen's scatter_add does on a GPU.
"""

from __future__ import annotations

import torch

from ._op import Function, define, twice_differentiable
from ._private import functorch_active, is_batch
from ._shapes import DEAD, WINDOW, empty_maps


def _fake_backward(dy, offsets, channels_last, h, w, *window):
    return empty_maps(dy, channels_last, h, w)


def _fake_indices(offsets, channels_last, w, *window):
    return empty_maps(offsets, channels_last, *offsets.shape[-2:], torch.int64)


_max_pool2d_backward = define(
    "max_pool2d_backward",
    f"(Tensor dy, Tensor offsets, bool channels_last, SymInt h, SymInt w, {WINDOW}) -> Tensor",
    _fake_backward,
)
pool_indices = define(
    "max_pool2d_indices", f"(Tensor offsets, bool channels_last, SymInt w, {WINDOW}) -> Tensor", _fake_indices
)


def _places(offsets, channels_last, h, w, window):
    """Where in its flattened map each winner is; anywhere, where there is none."""
    return pool_indices(offsets, channels_last, w, *window).clamp_max(h * w - 1).flatten(-2)


class _Put(Function):
    @staticmethod
    def forward(ctx, dy, offsets, *options):
        ctx.save_for_backward(offsets)
        ctx.options = options
        channels_last, h, w, window = options
        return _max_pool2d_backward(dy, offsets, channels_last, h, w, *window)

    @staticmethod
    def backward(ctx, ddx):
        return _differentiable(_Take, ddx, *ctx.saved_tensors, ctx.options), None, None, None, None, None


class _Take(Function):
    @staticmethod
    def forward(ctx, ddx, offsets, *options):
        ctx.save_for_backward(offsets)
        ctx.options = options
        ddy = ddx.flatten(-2).gather(-1, _places(offsets, *options)).view(offsets.shape)
        ddy = ddy.masked_fill_(offsets == DEAD, 0)
        return ddy.contiguous(memory_format=torch.channels_last) if options[0] else ddy

    @staticmethod
    def backward(ctx, dddy):
        return _differentiable(_Put, dddy, *ctx.saved_tensors, ctx.options), None, None, None, None, None


def _differentiable(function, gradient, offsets, options):
    """Of batches of gradients autograd follows ATen's ops alone; of those, legacy vmap knows no flatten."""
    if not (functorch_active() or is_batch(gradient)):
        return function.call(gradient, offsets, *options)
    _, h, w, _ = options  # and no memory format
    places, dead = _places(offsets, *options), offsets == DEAD
    maps = offsets.shape[:-2]
    if function is _Take:
        return gradient.reshape(*maps, h * w).gather(-1, places).reshape(offsets.shape).masked_fill(dead, 0)
    dy = gradient.masked_fill(dead, 0).reshape(*maps, -1)
    return dy.new_zeros(*maps, h * w).scatter_add(-1, places, dy).reshape(*maps, h, w)


def put(dy, offsets, options):
    """The map that was pooled, of dy where a winner was, else 0; options: its memory format, size and window."""
    return _differentiable(_Put, dy, offsets, options)


def pool_backward(ctx, dy):
    """dx, of a forward that saved its offsets, its memory format, the size of its maps and its window."""
    (offsets,) = ctx.saved_tensors
    if twice_differentiable():
        return put(dy, offsets, (ctx.channels_last, *ctx.size, ctx.window))
    return _max_pool2d_backward(dy, offsets, ctx.channels_last, *ctx.size, *ctx.window)
