"""The maps of a pooling in tiles, and how a tap wins.

Both memory formats are rows of contiguous elements, of which a program has a tile, so that all divisions are of its
ROWS + COLUMNS edges, not of the elements between them:

                     columns [w, inner]          contiguous      channels_last
                    +--------------------+
    rows            |   |  COLUMNS  |    |       outer = c       outer = 1
    [n, outer, h]   |   +-----------+ROWS|       inner = 1       inner = c
                    |   +-----------+    |
                    +--------------------+
"""

import triton
import triton.language as tl
from torch import Tensor

from .. import _shapes
from .launch import INTERPRETED

DEAD = tl.constexpr(_shapes.DEAD)
# 8 a thread: with 2 x 2 windows 128 bytes of float32 under way in each. The interpreter's time goes by the program.
ELEMENTS, WARPS = 1 << 14 if INTERPRETED else 1024, 4
WIDEST = 256


@triton.jit
def tile_at(columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """This program's rows, and its first column."""
    across = tl.cdiv(columns, COLUMNS)
    program = tl.program_id(0)
    first_row, first_column = (program // across).to(tl.int64) * ROWS, (program % across).to(tl.int64) * COLUMNS
    return first_row + tl.arange(0, ROWS), first_column


@triton.jit
def better(best, tap, value, at, inside):
    """The first tap inside, then whatever is larger, or NaN."""
    wins = inside & ((value > best) | (value != value) | (tap == DEAD))
    return tl.where(wins, value, best), tl.where(wins, at, tap)


def tiles(rows: int, columns: int) -> tuple[tuple[int], dict]:
    """The grid over rows x columns, and the tile's shape."""
    wide = min(triton.next_power_of_2(int(columns)), WIDEST)
    high = min(triton.next_power_of_2(int(rows)), ELEMENTS // wide)
    grid = (triton.cdiv(rows, high) * triton.cdiv(columns, wide),)
    return grid, {"ROWS": high, "COLUMNS": wide, "num_warps": WARPS}


def split(x: Tensor, channels_last: bool) -> tuple[int, int, int]:
    """The sizes n, outer and inner of x."""
    n, c = (1, *x.shape)[-4:-2]
    return (n, 1, c) if channels_last else (n, c, 1)


def strides(x: Tensor) -> tuple[int, ...]:
    """Of n, c, h and w."""
    return x.stride() if x.dim() == 4 else (0, *x.stride())
