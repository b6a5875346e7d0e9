"""Routes of linear_cross_entropy: what its speed depends on."""

from __future__ import annotations

from torch import Tensor

from . import _gpu, _op
from ._table import DTYPE, FLOATS, NATIVE, NO_YES, STOCK, THREADS, TRITON, Decided, Family, several_threads

CPU = Family(
    "linear_cross_entropy", "cpu", NATIVE, (STOCK, NATIVE), "logits",
    dtype=FLOATS, gradient=NO_YES, threads=THREADS,
)  # fmt: skip
GPU = Family(
    "linear_cross_entropy", "cuda", STOCK, (STOCK, NATIVE, TRITON), "logits",
    serving=_gpu.SERVING, bytes=_gpu.BYTES, gradient=NO_YES, captured=NO_YES,
)  # fmt: skip


def on_cpu(x: Tensor, w: Tensor, gradient: bool) -> Decided:
    """The row and the size of a loss on the CPU, of tensors that our kernels can serve."""
    row = (DTYPE[x.dtype] * 2 + (1 if gradient else 0)) * 2 + several_threads()
    return CPU, row, x.shape[:-1].numel() * w.shape[:-1].numel()


def on_gpu(x: Tensor, w: Tensor, gradient: bool) -> Decided:
    """The same on a GPU, where no graph is captured."""
    serving = _gpu.SERVING.index(_op.GPU["linear_cross_entropy"])
    row = (serving * 2 + (x.dtype.itemsize == 2)) * 2 + (1 if gradient else 0)
    return GPU, row * 2, x.shape[:-1].numel() * w.shape[:-1].numel()
