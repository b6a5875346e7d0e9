"""Routes of cross_entropy: what its speed depends on."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _gpu, _op
from ._table import DTYPE, FLOATS, NATIVE, NO_YES, STOCK, THREADS, TRITON, Decided, Family, several_threads

# Of so many classes a row fills stock's vectors; on a GPU the kernels of ours change at these.
_CLASSES = _FEW, _MANY = 15, 512
_GPU_CLASSES = _GPU_FEW, _GPU_MANY = 32, 512
MEAN, NONE, PLANES, PROBABILITIES = range(4)
FORMS = "reduced rows", "unreduced rows", "planes", "probabilities"
CPU = Family(
    "cross_entropy", "cpu", STOCK, (STOCK, NATIVE), "logits",
    dtype=FLOATS, gradient=NO_YES, form=FORMS, classes=("to 15", "to 512", "more"), threads=THREADS,
)  # fmt: skip
GPU = Family(
    "cross_entropy", "cuda", STOCK, (STOCK, NATIVE, TRITON), "logits",
    serving=_gpu.SERVING, bytes=_gpu.BYTES, kind=("to 32 classes", "to 512 classes", "more classes", "planes"),
    captured=NO_YES,
)  # fmt: skip


def on_cpu(x: Tensor, target: Tensor, reduction: str, gradient: bool) -> Decided | None:
    """The row and the size of a loss on the CPU; None where there is none."""
    dtype, sizes = DTYPE.get(x.dtype), x.shape
    dims = len(sizes)
    if dtype is None or not dims:
        return None
    classes = sizes[0] if dims == 1 else sizes[1]
    if target.dtype is not torch.int64:
        form = PROBABILITIES
    elif dims > 2:
        form = PLANES
    else:
        form = NONE if reduction == "none" else MEAN
    width = 0 if classes <= _FEW else 1 if classes <= _MANY else 2
    row = (((dtype * 2 + gradient) * 4 + form) * 3 + width) * 2 + several_threads()
    return CPU, row, x.numel()


def on_gpu(x: Tensor, target: Tensor) -> Decided | None:
    """The same on a GPU, of class indices; probabilities were not measured there."""
    serving, dims = _op.GPU.get("cross_entropy"), x.dim()
    if serving is None or dims < 2 or target.dtype is not torch.int64:
        return None
    classes = x.shape[1]
    kind = 3 if dims > 2 else 0 if classes <= _GPU_FEW else 1 if classes <= _GPU_MANY else 2
    row = (_gpu.SERVING.index(serving) * 2 + (x.dtype.itemsize == 2)) * 4 + kind
    return GPU, row * 2, x.numel()
