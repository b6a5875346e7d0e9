"""What "auto" gives to our kernels on a GPU: one table of measured sizes. What no row of it names is stock's.

Ours take less of a GPU's time from small sizes on, but more of the host's: an autograd.Function in Python. So each kind
of call has two sizes from which ours is never slower: `eager`, where the GPU is busy for longer than the host needs for
our call; and `graph`, of calls captured in a CUDA graph, where the host's time does not count. Measured forward with
backward on an H100 by bench/gpu_rows.py: bench/results/nvidia-h100-80gb-hbm3. There cross_entropy did not yet copy its
logits: with a copy's time added, at 2.6 TB/s, every row taken is still the faster one, by 1.18x or more.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import _op, _route

NEVER = 1 << 62
WHY = "stock measured faster at this size on a GPU: torchext.backend('native') has ours"


class Least(NamedTuple):
    """Elements from which ours is the faster one."""

    eager: int
    graph: int


class Row(NamedTuple):
    """Of one kind of call: of 4 or 8 bytes an element, and of 2."""

    wide: Least
    half: Least


# By what serves the op's GPU tensors, then by the kind of call. Sizes: logits; elements to be pooled, or dropped; of a
# pooled convolution the elements before pooling.
TABLE: dict[str, dict[str, Row]] = {
    "native": {
        "cross_entropy to 32 classes": Row(Least(1 << 21, 1 << 12), Least(1 << 22, 1 << 12)),
        "cross_entropy to 512 classes": Row(Least(1 << 24, 1 << 19), Least(1 << 24, 1 << 19)),
        "cross_entropy": Row(Least(3 << 23, 1 << 19), Least(15 << 22, 1 << 19)),
        "cross_entropy of planes": Row(Least(10 << 20, 1 << 19), Least(10 << 20, 1 << 19)),
        "max_pool2d apart": Row(Least(3 << 23, 1 << 14), Least(3 << 23, 1 << 17)),
        "max_pool2d apart, channels_last": Row(Least(1 << 25, 1 << 14), Least(1 << 25, 1 << 17)),
        "max_pool2d overlapping, channels_last": Row(Least(1 << 24, 1 << 14), Least(3 << 23, 1 << 17)),
        "dropout": Row(Least(1 << 26, 1 << 23), Least(1 << 27, 1 << 24)),
        "conv2d_relu_max_pool2d to 32 taps": Row(Least(1 << 14, 1 << 14), Least(1 << 21, 1 << 21)),
        "conv2d_relu_max_pool2d to 160 taps": Row(Least(1 << 20, 1 << 20), Least(1 << 20, 1 << 20)),
    },
    "triton": {
        "cross_entropy to 32 classes": Row(Least(1 << 23, 1 << 13), Least(1 << 24, 1 << 13)),
        "cross_entropy to 512 classes": Row(Least(1 << 26, 1 << 19), Least(1 << 27, 1 << 19)),
        "cross_entropy": Row(Least(1 << 27, 1 << 19), Least(1 << 28, 1 << 19)),
        "max_pool2d apart, channels_last": Row(Least(1 << 27, 1 << 14), Least(1 << 26, 1 << 17)),
        "max_pool2d overlapping, channels_last": Row(Least(1 << 26, 1 << 14), Least(1 << 26, 1 << 17)),
        "dropout": Row(Least(1 << 28, 1 << 24), Least(1 << 28, 1 << 24)),
        "conv2d_relu_max_pool2d to 32 taps": Row(Least(1 << 25, 1 << 17), Least(1 << 25, 1 << 24)),
    },
}
# Of a library's product with ReLU in its epilogue beside stock's two calls: multiply-adds; about the result's elements.
# Without gradient it takes less of the host's time too, and is always the faster one.
LIBRARY: dict[str, Row] = {
    "linear_relu": Row(Least(0, 0), Least(0, 0)),
    "linear_relu with gradient": Row(Least(NEVER, 0), Least(1 << 35, 0)),
    "conv2d_relu with gradient": Row(Least(3 << 24, 3 << 24), Least(3 << 24, 3 << 24)),
}


def _no_capture() -> bool:
    return False


_is_capturing = torch.cuda.is_current_stream_capturing if torch.version.cuda else _no_capture


def is_faster(stem: str, kind: str, dtype: torch.dtype, size: int) -> bool:
    """Whether "auto" takes ours for a call of that kind on a GPU."""
    row = TABLE[_op.GPU[stem]].get(kind) if stem in _op.GPU else None
    return row is not None and _reaches(row, dtype, size)


def fused_is_faster(kind: str, dtype: torch.dtype, size: int) -> bool:
    """Whether "auto" takes the library's product with its epilogue, and not stock's calls one after the other."""
    return _reaches(LIBRARY[kind], dtype, size)


def _reaches(row: Row, dtype: torch.dtype, size: int) -> bool:
    eager, graph = row[dtype.itemsize == 2]
    return size >= eager or (size >= graph and captures())


def captures() -> bool:
    """Whether the current stream records a CUDA graph."""
    return not torch.compiler.is_compiling() and _is_capturing()


def _stem(kind: str) -> str:
    return kind.split()[0]


def _smallest(rows: dict[str, Row], stem: str) -> Least:
    """The sizes below which no call of the op is ours, whatever its kind."""
    leasts = [least for kind, row in rows.items() if _stem(kind) == stem for least in row]
    return Least(*(min(getattr(least, field) for least in leasts) for field in Least._fields))


_SMALLEST = {
    backend: {stem: _smallest(rows, stem) for stem in set(map(_stem, rows))} for backend, rows in TABLE.items()
}


def is_small(stem: str, size: int) -> bool:
    """Whether a call is stock's by its size alone: what is asked before its arguments are looked at."""
    if stem not in _op.GPU:
        return True
    eager, graph = _SMALLEST[_op.GPU[stem]][stem]
    return size < graph or (size < eager and not captures())


_JOINED = 1 << 18  # elements of a layer's input from which it may be ours, joined to the next, in eager training
MOST_TAPS = 160  # of all channels of a pooled convolution: a library's tensor cores win with the depth of the product


def may_join(x: Tensor) -> bool:
    """Whether it is worth looking at what layers joined to their next would be: on a GPU's host that costs 10 us."""
    if not _route.auto() or not x.is_cuda:
        return True
    return x.numel() >= _JOINED or not torch.is_grad_enabled() or captures()


def is_auto_on_gpu(x: object) -> bool:
    """Whether this table decides."""
    return type(x) in _route.PLAIN and x.is_cuda and _route.auto()


def lacks_memory(logits: int, x: Tensor) -> bool:
    """Whether so many logits of x's dtype, their logarithms and their gradient do not fit beside what x's GPU holds."""
    needed = 3 * logits * x.dtype.itemsize
    if needed < _SPARE or torch.compiler.is_compiling() or captures():
        return False
    free, _ = torch.cuda.mem_get_info(x.device)
    return needed > free + torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)


_SPARE = 1 << 32  # bytes of which nobody asks whether a GPU has them
