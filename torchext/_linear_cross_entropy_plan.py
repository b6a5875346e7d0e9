"""How our kernels serve a linear_cross_entropy, or why they cannot; and who serves it by the routing table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _gpu
from ._cross_entropy_plan import are_options
from ._linear_cross_entropy_route import CPU, on_cpu, on_gpu
from ._op import wants_grad
from ._servable import PLAIN, auto, why_not, why_stock
from ._table import NATIVE, STOCK

WANTS = (
    "input [n, k] or [k], linear_weight [c, ..., k], target [n, ...] of int64 class indices or [n, c, ...] of class "
    "probabilities, linear_bias [c, ...] or None, weight [c] or None, of one floating dtype and one device, "
    "label_smoothing in [0, 1], and no ignore_index with probabilities"
)


def why_stocks(x, w, target, b, weight, reduction, ignore_index, label_smoothing) -> str | None:
    why = why_stock("linear_cross_entropy", x, w, b, weight)
    if why is not None:
        return why
    if torch.is_autocast_enabled("cpu" if x.is_cpu else "cuda"):
        return "under autocast"
    if type(target) not in PLAIN or target.device != x.device:
        return why_not("linear_cross_entropy", target) or "target on another device"
    if (
        w is None
        or w.dim() < 2
        or x.dim() not in ((1, 2) if w.dim() == 2 else (2,))
        or x.shape[-1] != w.shape[-1]
        or 0 in w.shape[:-1]
    ):
        return "shapes only stock takes"
    if b is not None and b.shape != w.shape[:-1]:
        return "shapes only stock takes"
    if target.dtype is torch.int64:
        fits = target.shape == x.shape[:-1] + w.shape[1:-1]
    else:
        fits = target.dtype is x.dtype and target.shape == x.shape[:-1] + w.shape[:-1] and ignore_index is None
    if not fits or target.requires_grad:
        return "a target that wants a gradient" if fits else "a target only stock takes"
    if weight is not None and (weight.shape != w.shape[:1] or weight.requires_grad):
        return "a weight only stock takes"
    if not (ignore_index is None or type(ignore_index) is int) or not are_options(reduction, label_smoothing):
        return "options only stock takes"
    return None


def decide(x, w):
    """The row of the table that decides on this call and its route; ours where a GPU could not hold stock's logits."""
    if not auto():
        return None, NATIVE
    if not x.is_cuda:
        decided = on_cpu(x, w, wants_grad(x, w))
        return decided, CPU.route(decided[1], decided[2])
    decided = on_gpu(x, w, wants_grad(x, w))
    route = _gpu.route(*decided)
    return (None, NATIVE) if route == STOCK and _gpu.lacks_memory(decided[2], x) else (decided, route)


_CHUNK_BYTES = 32 << 20  # of logits: the largest block the C library's heap gives again without asking the system


def chunk_of(x: Tensor, w: Tensor, options: Any) -> int:
    """Rows at a time: a chunk's logits take as much memory as a quarter of w, or 32 MiB where that is more."""
    if options is not None and options.batch_chunk_size is not None:
        return options.batch_chunk_size
    rows = max(w.shape[-1] // 4, _CHUNK_BYTES // (w.shape[:-1].numel() * x.itemsize), 1)
    return rows if rows < 32 else rows // 32 * 32


OPTIONS = "linear_bias", "weight", "reduction", "ignore_index", "label_smoothing", "options"
NAMES = "input", "linear_weight", "target", *OPTIONS
