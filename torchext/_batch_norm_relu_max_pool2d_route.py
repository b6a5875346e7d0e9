"""Routes of batch_norm_relu_max_pool2d: what its speed depends on."""

from __future__ import annotations

from torch import Tensor

from ._shapes import is_channels_last
from ._table import APART, DTYPE, FLOATS, NATIVE, THREADS, Decided, Family, several_threads

CPU = Family(
    "batch_norm_relu_max_pool2d", "cpu", NATIVE, (APART, NATIVE), "elements",
    dtype=FLOATS, layout=("contiguous", "channels_last"), threads=THREADS,
)  # fmt: skip


def on_cpu(x: Tensor) -> Decided:
    """The row and the size of a batch norm on the CPU, of a tensor that our kernel can serve."""
    return CPU, (DTYPE[x.dtype] * 2 + (1 if is_channels_last(x) else 0)) * 2 + several_threads(), x.numel()
