"""How our kernel serves a pooling, or why it cannot; and who serves it by the routing table."""

from __future__ import annotations

from typing import NamedTuple

from . import _gpu
from ._max_pool2d_route import CPU, GPU, on_cpu, on_gpu
from ._servable import PLAIN, auto, why_stock
from ._shapes import MAX_TAPS, out_size, window_of
from ._table import NATIVE, STOCK

WANTS = "input [n, c, h, w] or [c, h, w], and kernel_size, stride, padding and dilation of one int or two"
NAMES = "input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"


class Plan(NamedTuple):
    """A pooling that our kernel can serve."""

    window: list[int]
    oh: int
    ow: int


def plan_of(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices) -> Plan | str:
    """How our kernel serves it, or why it cannot."""
    why = why_stock("max_pool2d", x)
    if why is not None:
        return why
    shape = x.shape
    window = window_of(kernel_size, stride, padding, dilation)
    flags = type(ceil_mode) is bool and type(return_indices) is bool
    if window is None or not flags or len(shape) not in (3, 4) or 0 in shape[-3:]:
        return "arguments only stock takes"
    if window[0] * window[1] > MAX_TAPS:
        return f"more than {MAX_TAPS} taps"
    kh, kw, sh, sw, ph, pw, dh, dw = window
    oh = out_size(shape[-2], kh, sh, ph, dh, ceil_mode)
    ow = out_size(shape[-1], kw, sw, pw, dw, ceil_mode)
    return Plan(window, oh, ow) if oh >= 1 and ow >= 1 else "no output"


def decide(x, kernel_size, stride, dilation, return_indices):
    """The row of the table that decides on this call and its route; None and ours where it has no say."""
    if type(x) not in PLAIN or not auto():
        return None, NATIVE
    if not x.is_cuda:
        size = x.numel()
        if size <= CPU.stock_to:
            return (CPU, None, size), STOCK
        decided = on_cpu(x, kernel_size, stride, return_indices)
        return decided, NATIVE if decided is None else CPU.route(decided[1], decided[2])
    size = x.numel()
    if size <= GPU.stock_to:
        return (GPU, None, size), STOCK
    decided = on_gpu(x, kernel_size, stride, dilation, return_indices)
    return decided, STOCK if decided is None else _gpu.route(*decided)
