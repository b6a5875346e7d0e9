"""On a GPU: cuBLASLt's product and cuDNN's convolution with bias and ReLU in their epilogue.

torch has both, but no gradient of them, so stock rectifies in a pass of its own. The Functions here add the gradients,
by the library's products, in ops that have gradients of any order. Forward moves two maps less: of a convolution of 64
channels in bfloat16 less than half the time. What is asked before a call is kept short: on a GPU's host each question
is a hundredth of stock's call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _gpu
from ._op import Function, wants_grad
from ._private import addmm_relu, cudnn_deterministic, cudnn_enabled, unsafe_view
from ._saved import keep, kept
from ._servable import PLAIN
from ._shapes import out_size, pair

_aten = torch.ops.aten
_convolution_relu = getattr(torch, "cudnn_convolution_relu", None)
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_PRODUCTS_FLOATS = (torch.float32,)  # of 16 bits cuBLASLt has kernels, of few columns, whose ReLU makes 0 of NaN
_is_compiling, _is_autocast = torch.compiler.is_compiling, torch.is_autocast_enabled
_deterministic = torch.are_deterministic_algorithms_enabled
_REFUSED = RuntimeError, TypeError, ValueError, IndexError  # then stock says what is wrong


def _are_measured(x: Tensor, w: Tensor, b: Tensor, dtypes: tuple[torch.dtype, ...]) -> bool:
    """Of one dtype that was measured."""
    dtype = x.dtype
    return (
        dtype in dtypes and w.dtype is dtype and b.dtype is dtype and not _is_compiling() and not _is_autocast("cuda")
    )


class LinearReLUFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b):
        y = addmm_relu(b, x, w.t())
        keep(ctx, x, w, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, y = ctx.saved_tensors
        need_dx, need_dw, need_db = ctx.needs_input_grad
        dz = _aten.threshold_backward(dy, y, 0)
        return dz @ w if need_dx else None, dz.t() @ x if need_dw else None, dz.sum(0) if need_db else None


def linear_relu(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor | None:
    """relu(x w^T + b) of plain x and w; None where that is stock's."""
    if type(b) not in PLAIN or w.is_nested:
        return None
    dims = x.dim()
    if w.dim() != 2 or dims < 2 or not x.numel() or b.shape != w.shape[:1]:
        return None
    if addmm_relu is None or not _are_measured(x, w, b, _PRODUCTS_FLOATS):
        return None
    rows = x if dims == 2 else x.flatten(0, -2)
    try:
        y = LinearReLUFunction.call(rows, w, b) if wants_grad(x, w, b) else addmm_relu(b, rows, w.t())
    except _REFUSED:
        return None
    return y if dims == 2 else unsafe_view(y, (*x.shape[:-1], w.shape[0]))


class Conv2dReLUFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b, geometry):
        y = _convolution_relu(x, w, b, *geometry)
        keep(ctx, x, w, y)
        ctx.geometry = geometry
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, y = kept(ctx, dy)
        needed = ctx.needs_input_grad[:3]
        stride, padding, dilation, groups = ctx.geometry
        dz = _aten.threshold_backward(dy, y, 0)
        sizes = [w.shape[0]]
        gradients = _aten.convolution_backward(
            dz, x, w, sizes, stride, padding, dilation, False, [0, 0], groups, list(needed)
        )
        return *gradients, None


def conv2d_relu(x: Tensor, w: Tensor, b: Tensor | None, stride, padding, dilation, groups) -> Tensor | None:
    """relu(conv2d(x, w, b, ...)); None where that is stock's. Grouped and dilated ones were not measured.

    In a capture only what `cudnn.benchmark` found for the eager calls before it: it cannot search there.
    """
    if type(x) not in PLAIN or type(w) not in PLAIN or type(b) not in PLAIN or w.is_nested:
        return None
    stride, padding = _pair(stride, 1), _pair(padding, 0)
    if stride is None or padding is None or type(groups) is not int or groups != 1 or _pair(dilation, 1) != (1, 1):
        return None
    if x.dim() != 4 or w.dim() != 4 or b.shape != w.shape[:1] or not x.numel() or not w.numel():
        return None
    _, c, h, width = x.shape
    _, group_c, r, s = w.shape
    p, q = out_size(h, r, stride[0], padding[0], 1), out_size(width, s, stride[1], padding[1], 1)
    if c != group_c or p < 1 or q < 1:  # cuDNN's call checks no shape: what does not fit is stock's to refuse
        return None
    if not _are_measured(x, w, b, _FLOATS) or _convolution_relu is None or w.device != x.device or b.device != x.device:
        return None
    if not cudnn_enabled() or cudnn_deterministic() or _deterministic():
        return None
    if not torch.backends.cudnn.benchmark and _gpu.captures():
        return None
    geometry = stride, padding, (1, 1), 1
    try:
        return (
            Conv2dReLUFunction.call(x, w, b, geometry) if wants_grad(x, w, b) else _convolution_relu(x, w, b, *geometry)
        )
    except _REFUSED:
        return None


def _pair(value, least: int) -> tuple[int, int] | None:
    """Two ints of at least `least`; None for what stock may take or refuse, a list of one among it."""
    found = None if type(value) in (tuple, list) and len(value) != 2 else pair(value)
    return found if found is not None and min(found) >= least else None
