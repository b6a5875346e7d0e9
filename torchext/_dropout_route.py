"""Routes of dropout and its channel forms: what their speed depends on."""

from __future__ import annotations

from torch import Tensor

from . import _gpu, _op
from ._table import DTYPE, FLOATS, NATIVE, NO_YES, STOCK, THREADS, TRITON, Decided, Family, several_threads

CPU = Family(
    "dropout", "cpu", STOCK, (STOCK, NATIVE), "draws",
    dtype=FLOATS, gradient=NO_YES, of=("elements", "channels"), threads=THREADS,
)  # fmt: skip
GPU = Family(
    "dropout", "cuda", STOCK, (STOCK, NATIVE, TRITON), "draws",
    serving=_gpu.SERVING, bytes=_gpu.BYTES, of=("elements", "channels"), captured=NO_YES,
)  # fmt: skip


def on_cpu(x: Tensor, draws: int, channels: bool, gradient: bool) -> Decided | None:
    """The row and the size of a dropout on the CPU; None where there is none."""
    dtype = DTYPE.get(x.dtype)
    if dtype is None:
        return None
    return CPU, ((dtype * 2 + gradient) * 2 + channels) * 2 + several_threads(), draws


def on_gpu(x: Tensor, draws: int, channels: bool) -> Decided | None:
    """The same on a GPU, where no graph is captured."""
    serving = _op.GPU.get("dropout")
    if serving is None:
        return None
    return GPU, ((_gpu.SERVING.index(serving) * 2 + (x.dtype.itemsize == 2)) * 2 + channels) * 2, draws
