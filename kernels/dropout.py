"""dropout: y[i] = x[i] * scale + shift where element i is kept, x[i] * 0 + fill where it is dropped.

Reads x once, writes y once, 2 * itemsize bytes an element; the mask is csrc/philox.h's and lives in registers. A
program has ELEMENTS neighbours in memory, an eighth as many blocks of draws; a block's four words are eight draws:

    words     [blocks]              w0   w1   w2   w3       Philox4x32-7 of (block, stream 0) under the seed
    halves    [blocks, 2, 2, 2]     w0 low, w0 high, w1 low, ... w3 high
    draws     [ELEMENTS]            reshaped: element i has half i % 8 of block i / 8

Bound by memory: 14 wide multiplies for 8 elements hide behind 32 bytes of bfloat16.
"""

import triton
import triton.language as tl
from torch import Tensor

from .._private import is_dense
from .._shapes import empty_dropped
from .launch import accumulator, implements, launch
from .tile import rounded, scalar

ELEMENTS, WARPS = 4096, 8  # 16 elements a thread: 64 bytes of float32 under way in each, in four 16-byte loads
ROUNDS = tl.constexpr(7)
DRAWS = tl.constexpr(8)  # a block's


@triton.jit
def draws(seed, first_block, stream, BLOCKS: tl.constexpr):
    """The 16-bit draws of BLOCKS blocks, in the order of their elements."""
    block = first_block + tl.arange(0, BLOCKS)
    low, high = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    zero = tl.zeros([BLOCKS], tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, low, high, zero + stream, zero, ROUNDS)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    return tl.reshape(tl.join(words & 0xFFFF, words >> 16), [BLOCKS * DRAWS])


@triton.jit
def kept(seed, first_block, high, low, BLOCKS: tl.constexpr):
    """Whether each element is kept: by its draw, and where that equals `high`, one in 65,536, by a second."""
    first = draws(seed, first_block, 0, BLOCKS).to(tl.int32)
    keep = first < high
    if tl.max((first == high).to(tl.int32)) != 0:
        keep |= (first == high) & (draws(seed, first_block, 1, BLOCKS).to(tl.int32) < low)
    return keep


@triton.jit(do_not_specialize=["high", "low"])
def dropout_kernel(
    x, y, seed, count, high, low, scale: tl.float64, shift: tl.float64, fill: tl.float64,
    ELEMENTS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * ELEMENTS
    index = first + tl.arange(0, ELEMENTS)
    inside = index < count
    value = tl.load(x + index, inside).to(ACC)
    keep = kept(tl.load(seed), first // DRAWS, high, low, ELEMENTS // DRAWS)
    scale, shift, fill = scalar(scale, ACC), scalar(shift, ACC), scalar(fill, ACC)
    value = tl.where(keep, value * scale + shift, value * 0 + fill)
    tl.store(y + index, rounded(value, y.dtype.element_ty), inside)


def threshold(p: float) -> tuple[int, int]:
    """T = floor((1 - p) 2^32 + 1/2) in halves, as csrc/philox.h has it."""
    t = int((1 - p) * 2.0**32 + 0.5)
    high = min(t >> 16, 0xFFFF)
    return high, t - (high << 16)


def drop(y: Tensor, x: Tensor, seed: Tensor, p: float, scale: float, shift: float, fill: float) -> None:
    count = x.numel()
    grid = (triton.cdiv(count, ELEMENTS),)
    negative = [value if value else -0.0 for value in (shift, fill)]  # adding -0 changes nothing, +0 turns -0 into +0
    numbers = (count, *threshold(p), scale, *negative)
    launch(dropout_kernel, grid, x, y, seed, *numbers, ELEMENTS=ELEMENTS, ACC=accumulator(x), num_warps=WARPS)


@implements("dropout")
def dropout(x: Tensor, seed: Tensor, p: float, scale: float, shift: float, fill: float) -> Tensor:
    x = x if is_dense(x) else x.clone()
    y = empty_dropped(x, fill)
    drop(y, x, seed, p, scale, shift, fill)
    return y


@implements("dropout_")
def dropout_(x: Tensor, seed: Tensor, p: float, scale: float, shift: float, fill: float) -> None:
    drop(x, x, seed, p, scale, shift, fill)
