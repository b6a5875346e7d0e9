"""Routes of linear and linear_relu: what their speed depends on."""

from __future__ import annotations

from torch import Tensor

from . import _gpu, _op
from ._table import (
    DTYPE,
    FLOATS,
    LIBRARY,
    NATIVE,
    NO_YES,
    STOCK,
    THREADS,
    TRITON,
    Decided,
    Family,
    several_threads,
)

LIBRARYS_PRODUCT, OUR_PRODUCT = range(2)  # the algorithms of csrc/linear_relu.h, on the CPU

_FEW = 16  # columns that one vector holds
_BLOCK = 32  # rows of which a library's product packs its operands
CPU = Family(
    "linear_relu", "cpu", STOCK, (STOCK, LIBRARY, NATIVE), "multiply-adds",
    relu=NO_YES, dtype=FLOATS, gradient=NO_YES, columns=(f"to {_FEW}", "more"),
    rows=("one", f"to {_BLOCK - 1}", "more"), threads=THREADS,
)  # fmt: skip
GPU = Family(
    "linear_relu", "cuda", STOCK, (STOCK, LIBRARY, NATIVE, TRITON), "multiply-adds",
    relu=NO_YES, serving=_gpu.SERVING, bytes=_gpu.BYTES, gradient=NO_YES, captured=NO_YES,
)  # fmt: skip


def on_cpu(x: Tensor, w: Tensor, relu: bool, gradient: bool) -> Decided | None:
    """The row and the size of a product on the CPU; None where there is none."""
    shape, dtype = w.shape, DTYPE.get(x.dtype)
    if len(shape) != 2 or dtype is None:
        return None
    columns, depth = shape
    elements = x.numel()
    wide = 1 if columns > _FEW else 0
    rows = 0 if elements <= depth else 1 if elements < _BLOCK * depth else 2
    row = ((((relu * 4 + dtype) * 2 + gradient) * 2 + wide) * 3 + rows) * 2 + several_threads()
    return CPU, row, elements * columns


def on_gpu(x: Tensor, w: Tensor, relu: bool, gradient: bool) -> Decided | None:
    """The same on a GPU, where no graph is captured."""
    serving = _op.GPU.get("linear_relu")
    if serving is None or w.dim() != 2:
        return None
    row = ((relu * 2 + _gpu.SERVING.index(serving)) * 2 + (x.dtype.itemsize == 2)) * 2 + gradient
    return GPU, row * 2, x.numel() * w.shape[0]
