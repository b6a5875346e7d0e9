"""Why our kernels cannot take a cross-entropy, if so; and who serves it by the routing table."""

from __future__ import annotations

import torch

from . import _gpu
from ._cross_entropy_backward import MEAN, NONE, SUM
from ._cross_entropy_route import CPU, on_cpu, on_gpu
from ._op import either_wants_grad
from ._servable import PLAIN, auto, why_not, why_stock
from ._table import NATIVE, STOCK

_is_compiling = torch.compiler.is_compiling


REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}
WANTS = (
    "input [n, c, ...] or [c], target [n, ...] of int64 class indices or [n, c, ...] of class probabilities, "
    "weight [c] or None, of one floating dtype and one device, label_smoothing in [0, 1]"
)
NAMES = "input", "target", "weight"
ALL_NAMES = *NAMES, "size_average", "ignore_index", "reduce", "reduction", "label_smoothing"


def are_options(reduction, label_smoothing) -> bool:
    """Whether our kernels know them."""
    is_number = type(label_smoothing) in (float, int)
    return isinstance(reduction, str) and reduction in REDUCTIONS and is_number and 0 <= label_smoothing <= 1


def why_stocks(x, target, weight, ignore_index, label_smoothing, reduction) -> str | None:
    why = why_stock("cross_entropy", x, weight)
    if why is not None:
        return why
    if type(target) not in PLAIN or target.is_cpu is not x.is_cpu or (target.is_cuda and target.device != x.device):
        return why_not("cross_entropy", target) or "target on another device"
    if target.layout is not torch.strided:
        return f"no kernel for layout {target.layout}"
    sizes, target_sizes = x.shape, target.shape
    dims = len(sizes)
    if target.dtype is torch.int64:
        if dims == 2:
            fits = len(target_sizes) == 1 and target_sizes[0] == sizes[0]
        else:
            fits = dims > 0 and target_sizes == sizes[:1] * (dims > 1) + sizes[2:]
    else:
        fits = target.dtype is x.dtype and target_sizes == sizes and dims > 0 and ignore_index < 0
    if not fits:
        return "a target only stock takes"
    classes = sizes[dims > 1]
    if classes == 0 or (weight is not None and (weight.shape != (classes,) or weight.requires_grad)):
        return "no classes" if classes == 0 else "a weight only stock takes"
    if type(ignore_index) is not int or not are_options(reduction, label_smoothing):
        return "options only stock takes"
    return None


def decide(x, target, reduction):
    """The row of the table that decides on this call and its route; None and ours where it has no say."""
    if type(x) not in PLAIN or type(target) not in PLAIN or not auto():
        return None, NATIVE
    if x.is_cuda:
        decided = on_gpu(x, target)
        return decided, STOCK if decided is None else _gpu.route(*decided)
    decided = None if _is_compiling() else on_cpu(x, target, reduction, either_wants_grad(x, target))
    return decided, NATIVE if decided is None else CPU.route(decided[1], decided[2])
