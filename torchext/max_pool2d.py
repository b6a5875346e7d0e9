"""max_pool2d: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _route
from ._op import Function, define, twice_differentiable, wants_grad

_DEAD = 255  # csrc/max_pool2d.h: the offset of an output that passes no gradient, and the number of taps that leaves
_WINDOW = "SymInt kh, SymInt kw, SymInt sh, SymInt sw, SymInt ph, SymInt pw, SymInt dh, SymInt dw"


def _empty(like, channels_last, h, w, dtype=None):
    format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(
        (*like.shape[:-2], h, w), dtype=dtype or like.dtype, device=like.device, memory_format=format
    )


def _fake(x, channels_last, want_offsets, oh, ow, *window):
    none = x.new_empty(0, dtype=torch.uint8)
    return _empty(x, channels_last, oh, ow), _empty(x, channels_last, oh, ow, torch.uint8) if want_offsets else none


def _fake_backward(dy, offsets, channels_last, h, w, *window):
    return _empty(dy, channels_last, h, w)


def _fake_indices(offsets, channels_last, w, *window):
    return _empty(offsets, channels_last, *offsets.shape[-2:], torch.int64)


_max_pool2d = define(
    "max_pool2d",
    f"(Tensor x, bool channels_last, bool want_offsets, SymInt oh, SymInt ow, {_WINDOW}) -> (Tensor, Tensor)",
    _fake,
)
_max_pool2d_backward = define(
    "max_pool2d_backward",
    f"(Tensor dy, Tensor offsets, bool channels_last, SymInt h, SymInt w, {_WINDOW}) -> Tensor",
    _fake_backward,
)
_max_pool2d_indices = define(
    "max_pool2d_indices", f"(Tensor offsets, bool channels_last, SymInt w, {_WINDOW}) -> Tensor", _fake_indices
)
