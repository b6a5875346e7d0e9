"""How our kernel serves a batch norm, ReLU and pooling, or why it cannot; and who serves it by the routing table."""

from __future__ import annotations

import torch

from ._batch_norm_relu_max_pool2d_route import CPU, on_cpu
from ._servable import auto, why_stock
from ._shapes import MAX_TAPS, POOL_OPTIONS, out_size, window_of
from ._table import NATIVE

WANTS = (
    "input [n, c, h, w] with more than one element a channel, weight, bias, running_mean and running_var [c] or None, "
    "eps above 0, and a pooling window no larger than the padded input, padded by half of it at most"
)


def why_composed(x, statistics, w, b, training, momentum, eps) -> str | None:
    """Why our kernel cannot normalise this; None if it can."""
    why = why_stock("batch_norm_relu_max_pool2d", x, w, b, *statistics)
    if why is not None:
        return why
    if not x.is_cpu:
        return f"no kernel for device {x.device.type!r}"
    if torch.is_autocast_enabled("cpu"):
        return "under autocast"
    if training is not True:
        return "only training is fused"
    shape = x.shape
    if len(shape) != 4 or not x.numel() or x.numel() == shape[1]:
        return "shapes only stock takes"
    for t in (w, b, *statistics):
        if t is not None and t.shape != shape[1:2]:
            return "shapes only stock takes"
    mean, var = statistics
    if (mean is None) != (var is None) or (mean is not None and (mean.requires_grad or var.requires_grad)):
        return "arguments only stock takes"
    if type(eps) is not float or eps <= 0 or type(momentum) not in (float, int):
        return "arguments only stock takes"
    return None


def plan_pool(x, kernel_size, stride, padding, dilation, ceil_mode):
    """(oh, ow) and the six ints of a window without dilation; None where our kernel does not serve it."""
    window = window_of(kernel_size, stride, padding, dilation)
    if window is None or type(ceil_mode) is not bool:
        return None
    kh, kw, sh, sw, ph, pw, dh, dw = window
    oh = out_size(x.shape[2], kh, sh, ph, dh, ceil_mode)
    ow = out_size(x.shape[3], kw, sw, pw, dw, ceil_mode)
    if dh != 1 or dw != 1 or kh * kw > MAX_TAPS or oh < 1 or ow < 1:
        return None
    return oh, ow, window[:6]


NAMES = "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps", *POOL_OPTIONS


def decide(x):
    """The row of the table that decides on this call and its route; ours where it has no say."""
    if not auto():
        return None, NATIVE
    decided = on_cpu(x)
    return decided, CPU.route(decided[1], decided[2])
