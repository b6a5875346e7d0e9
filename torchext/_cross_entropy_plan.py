"""Whose call a cross-entropy is by its size: the measured rule between stock's and ours."""

from __future__ import annotations

import torch

from . import _gpu_route

# Up to so many logits stock's three calls from C++ are sooner done than one autograd.Function's: (64, 10) takes them 52
# us, ours 65. Of 16 classes on stock's rows fill its vectors; without reduction ours copies the logits.
_TINY, _TINY_OF_MANY_CLASSES, _TINY_WITHOUT_REDUCTION = 3 << 10, 1 << 17, 1 << 18
_is_grad_enabled = torch.is_grad_enabled  # 0.1 us less than by its name
WHY_TINY = "stock measured faster with gradient of so few logits"


def _is_tiny(x, reduction):
    size = x.numel()
    if size <= _TINY:
        return True
    most = _TINY_WITHOUT_REDUCTION if reduction == "none" else _TINY_OF_MANY_CLASSES
    return size <= most and x.dim() > 1 and x.shape[1] >= 16


def is_faster_on_gpu(x, target):
    """Of class indices; probabilities were not measured there."""
    size, dims = x.numel(), x.dim()
    if _gpu_route.is_small("cross_entropy", size) or dims < 2 or target.dtype is not torch.int64:
        return False
    classes = x.shape[1]
    if dims > 2:
        kind = "cross_entropy of planes"
    elif classes <= 512:
        kind = "cross_entropy to 32 classes" if classes <= 32 else "cross_entropy to 512 classes"
    else:
        kind = "cross_entropy"
    return _gpu_route.is_faster("cross_entropy", kind, x.dtype, size)


def stock_is_faster(x, target, reduction) -> bool:
    if x.is_cuda:
        return not is_faster_on_gpu(x, target)
    return x.requires_grad and _is_grad_enabled() and _is_tiny(x, reduction)
