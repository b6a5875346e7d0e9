"""What matrix products share, linear's and convolution's: precision, pieces of a long sum, the end of a tile."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import INTERPRETED, accumulator, launch, processors
from .tile import rounded

PIECE = 256  # the least depth of a piece of a sum: less, and writing the piece takes longer than summing it
DEPTHS = 256 if INTERPRETED else 64  # a piece's depth is a multiple of it, and it of every tile's


@triton.jit
def finished(sum, bias, RELU: tl.constexpr):
    """sum + bias, no bias where it is None; then max(., 0) if RELU, where NaN stays NaN."""
    if bias is not None:
        sum += bias
    if RELU:
        sum = tl.where(sum <= 0, 0, sum)
    return sum


@triton.jit
def add_pieces_kernel(
    c, pieces, bias, count, n, number, RELU: tl.constexpr, ACC: tl.constexpr, PIECES: tl.constexpr, BLOCK: tl.constexpr
):
    """c = the sum of `number` pieces [count], finished: PIECES of them side by side, then those sums in one order."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    sum = tl.zeros([PIECES, BLOCK], ACC)
    for first in range(0, number, PIECES):
        piece = first + tl.arange(0, PIECES)
        inside = (piece < number)[:, None] & (i < count)[None, :]
        sum += tl.load(pieces + piece[:, None].to(tl.int64) * count + i[None, :], inside, 0)
    sum = tl.sum(sum, 0)
    b = None if bias is None else tl.load(bias + i % n, i < count, 0).to(ACC)
    tl.store(c + i, rounded(finished(sum, b, RELU), c.dtype.element_ty), i < count)


def add_pieces(c: Tensor, pieces: Tensor, bias: Tensor | None = None, relu: bool = False) -> None:
    """c, dense, = the sum of pieces [number, *c.shape] + bias, which runs along c's last dimension; then ReLU."""
    number, count = pieces.shape[0], c.numel()
    side_by_side = 1 << min(6, bits(number))
    block = 2048 // side_by_side
    launch(
        add_pieces_kernel, (triton.cdiv(count, block),), c, pieces, bias, count, c.shape[-1], number,
        RELU=relu, ACC=accumulator(c), PIECES=side_by_side, BLOCK=block, num_warps=4,
    )  # fmt: skip


def split(tiles: int, k: int, x: Tensor) -> tuple[int, int]:
    """Into how many pieces a sum over k falls, and their depth: more than one where `tiles` leave processors idle.

    It follows from the shape and the device alone, so that every call rounds alike.
    """
    pieces = min(processors(x) // tiles, k // PIECE)
    if pieces < 2:
        return 1, k
    depth = DEPTHS * triton.cdiv(triton.cdiv(k, pieces), DEPTHS)
    return triton.cdiv(k, depth), depth


def scratch(x: Tensor, *shape: int) -> Tensor:
    """An empty tensor of what sums over x are kept in."""
    return x.new_empty(shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def precision(x: Tensor, op: str) -> str:
    """How a product of x's dtype is multiplied: float32 as it is, or rounded to TF32, as torch's switch for `op` says.

    "matmul": torch.backends.cuda.matmul and torch.set_float32_matmul_precision; "conv": torch.backends.cudnn.
    """
    switch = torch.backends.cuda.matmul if op == "matmul" else torch.backends.cudnn.conv
    return "tf32" if x.dtype == torch.float32 and switch.fp32_precision == "tf32" else "ieee"


def on_tensor_cores(x: Tensor, precision: str) -> bool:
    """Whether products run on the matrix units at their full rate: all but float64 and float32 as it is."""
    return x.element_size() == 2 or precision == "tf32"


def step(x: Tensor, precision: str) -> int:
    """How many terms of the sum a tile takes at once: 128 bytes, what TMA copies swizzle without bank conflicts.

    On CUDA cores 16: they hold a step's operands in registers, and of more some of them in memory.
    """
    if INTERPRETED:  # its time goes by the step
        return DEPTHS
    return 16 if x.dtype == torch.float32 and precision == "ieee" else 128 // x.element_size()


def bits(size: int) -> int:
    """How often 1 must be doubled to reach `size`. Only compares: under torch.compile the size stays dynamic."""
    return next(bit for bit in range(64) if size <= 1 << bit)


def size_class(*sizes: int) -> int:
    """One number for all sizes between the same powers of two: a kernel is tuned once for each."""
    number = 0
    for size in sizes:
        number = 64 * number + bits(size)
    return number
