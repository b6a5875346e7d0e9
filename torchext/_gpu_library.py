"""On a GPU: cuBLASLt's product and cuDNN's convolution with bias and ReLU in their epilogue.

torch has both, but no gradient of them, so stock rectifies in a pass of its own. The Functions here add the gradients,
by the library's products. Forward moves two maps less: of a convolution of 64 channels in bfloat16 half the time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from . import _gpu_route, _route
from ._op import Function, recompute_backward, twice_differentiable, wants_grad

_aten = torch.ops.aten
_addmm_relu = getattr(torch, "_addmm_activation", None)
_convolution_relu = getattr(torch, "cudnn_convolution_relu", None)
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def _are_plain(*tensors: Tensor | None) -> bool:
    """Tensors on one GPU, of one dtype that was measured, seen by no transform."""
    first = tensors[0]
    if _route._functorch_active() or _route._forward_ad._current_level >= 0 or torch.compiler.is_compiling():
        return False
    if first.dtype not in _FLOATS or torch.is_autocast_enabled("cuda"):
        return False
    dtype, device = first.dtype, first.device
    for t in tensors:
        if type(t) not in _route.PLAIN or t.dtype is not dtype or t.layout is not torch.strided or t.device != device:
            return False
    return True


def _stock_linear_relu(x, w, b):
    return F.relu(F.linear(x, w, b))


class LinearReLUFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b):
        y = _addmm_relu(b, x, w.t())
        ctx.save_for_backward(x, w, b, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, b, y = ctx.saved_tensors
        if twice_differentiable():
            return recompute_backward(_stock_linear_relu, (x, w, b), dy, ctx.needs_input_grad)
        need_dx, need_dw, need_db = ctx.needs_input_grad
        dz = _aten.threshold_backward(dy, y, 0)
        return dz @ w if need_dx else None, dz.t() @ x if need_dw else None, dz.sum(0) if need_db else None


def linear_relu(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor | None:
    """relu(x w^T + b); None where that is stock's."""
    if b is None or _addmm_relu is None or w.dim() != 2 or x.dim() < 2 or not _are_plain(x, w, b):
        return None
    columns, depth = w.shape
    if x.shape[-1] != depth or b.shape != w.shape[:1] or not x.numel() or not columns:
        return None
    gradient = wants_grad(x, w, b)
    kind = "linear_relu with gradient" if gradient else "linear_relu"
    if not _gpu_route.library_is_faster(kind, x.dtype, x.numel() * columns):
        return None
    rows = x if x.dim() == 2 else x.flatten(0, -2)
    y = LinearReLUFunction.call(rows, w, b) if gradient else _addmm_relu(b, rows, w.t())
    return y if x.dim() == 2 else y.view(*x.shape[:-1], columns)


def _stock_conv2d_relu(x, w, b, *geometry):
    return F.relu(F.conv2d(x, w, b, *geometry))


class Conv2dReLUFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b, geometry):
        y = _convolution_relu(x, w, b, *geometry)
        ctx.save_for_backward(x, w, b, y)
        ctx.geometry = geometry
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, b, y = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if twice_differentiable():
            stock = lambda *xwb: _stock_conv2d_relu(*xwb, *ctx.geometry)
            return *recompute_backward(stock, (x, w, b), dy, needed), None
        stride, padding, dilation, groups = ctx.geometry
        dz = _aten.threshold_backward(dy, y, 0)
        sizes = [w.shape[0]]
        gradients = _aten.convolution_backward(
            dz, x, w, sizes, stride, padding, dilation, False, [0, 0], groups, list(needed)
        )
        return *gradients, None


def conv2d_relu(x: Tensor, w: Tensor, b: Tensor | None, stride, padding, dilation, groups) -> Tensor | None:
    """relu(conv2d(x, w, b, ...)); None where that is stock's. Grouped and dilated ones were not measured."""
    cudnn = torch.backends.cudnn
    if b is None or _convolution_relu is None or groups != 1 or not cudnn.enabled or cudnn.deterministic:
        return None
    stride, padding = _pair(stride), _pair(padding)
    if stride is None or padding is None or _pair(dilation) != [1, 1] or x.dim() != 4 or w.dim() != 4:
        return None
    if not _are_plain(x, w, b) or x.shape[1] != w.shape[1] or b.shape != w.shape[:1] or not x.numel() or not w.numel():
        return None
    p, q = ((x.shape[i + 2] + 2 * padding[i] - w.shape[i + 2]) // stride[i] + 1 for i in (0, 1))
    gradient = wants_grad(x, w, b)
    kind = "conv2d_relu with gradient" if gradient else "conv2d_relu"
    if p < 1 or q < 1 or not _gpu_route.library_is_faster(kind, x.dtype, x.shape[0] * w.shape[0] * p * q):
        return None
    geometry = stride, padding, [1, 1], 1
    return Conv2dReLUFunction.call(x, w, b, geometry) if gradient else _convolution_relu(x, w, b, *geometry)


def _pair(value) -> list[int] | None:
    """Two ints of at least 0, as a list; None for what stock may take or refuse."""
    if type(value) is int:
        value = value, value
    if type(value) not in (tuple, list) or len(value) != 2 or not all(type(v) is int and v >= 0 for v in value):
        return None
    return list(value)
