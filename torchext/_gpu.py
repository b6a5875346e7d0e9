"""What routing asks of a GPU: whether "auto" decides there, whether a graph is captured, whether memory is short.

Ours take less of a GPU's time from small sizes on, but more of the host's: an autograd.Function in Python. So each kind
of call has two rows: one of eager calls, where the GPU must be busy for longer than the host needs for our call; and
one of calls captured in a CUDA graph, where the host's time does not count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._servable import PLAIN, auto
from ._table import NATIVE, TRITON, Family

SERVING = "native", "triton"  # what serves an op's GPU tensors: CUDA kernels, or Triton where none were built
BYTES = "4 or 8", "2"  # of an element


def _no_capture() -> bool:
    return False


_is_capturing = torch.cuda.is_current_stream_capturing if torch.version.cuda else _no_capture


def captures() -> bool:
    """Whether the current stream records a CUDA graph."""
    return not torch.compiler.is_compiling() and _is_capturing()


def route(family: Family, row: int, size: int) -> int:
    """Who serves a call of this row, and of the row after it, its last class, under capture."""
    eager, captured = family.route(row, size), family.route(row + 1, size)
    return captured if captured != eager and captures() else eager


def convolution_route(family: Family, row: int, size: int) -> int:
    """The same, where all but ours are cuDNN's: with `cudnn.benchmark` it cannot search for an algorithm under capture,
    and has the one that eager calls found before, which must therefore have gone the same way.
    """
    under_capture = route(family, row, size)
    if under_capture in _OURS or not (captures() and torch.backends.cudnn.benchmark):
        return under_capture
    return family.route(row, size)


_OURS = NATIVE, TRITON


def decides(x: object) -> bool:
    """Whether the table of GPUs decides on a call with x."""
    return type(x) in PLAIN and x.is_cuda and auto()


def lacks_memory(logits: int, x: Tensor) -> bool:
    """Whether so many logits of x's dtype, their logarithms and their gradient do not fit beside what x's GPU holds."""
    needed = 3 * logits * x.dtype.itemsize
    if needed < _SPARE or torch.compiler.is_compiling() or captures():
        return False
    free, _ = torch.cuda.mem_get_info(x.device)
    return needed > free + torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)


_SPARE = 4 << 30  # bytes of which nobody asks whether a GPU has them
