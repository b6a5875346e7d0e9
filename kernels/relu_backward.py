"""dz = dy but 0 where y <= 0, and db = the sum of dz over all but its channels, in one pass.

Reads dy and y once, writes dz once, 3 * itemsize bytes an element; bound by memory. A tensor is [planes, channels,
pixels]: [1, n, m] of linear, [1, k, n * p * q] of channels_last images, [n, k, p * q] of contiguous ones; a tile's
lanes run along whichever is contiguous. A program walks over one piece of the tiles, plane after plane:

                  pixels of a plane              sums [pieces, channels], added by add_pieces: each lane adds up its
    channels   [ tile -> tile -> tile ]  ...     place in all tiles, then a tile's lanes are added in one order
               [ tile -> tile -> tile ]  ...
"""

import triton
import triton.language as tl
from torch import Tensor

from .launch import accumulator, launch, processors
from .product import add_pieces, bits, scratch

ELEMENTS, WARPS = 4096, 8  # a tile: 16 elements a thread, two 16-byte loads of each tensor for 16-bit ones
WIDE = 64  # pixels of a tile, if there are so many; more where channels are few
PROGRAMS = 4  # a processor, to keep enough loads under way


@triton.jit
def relu_backward_kernel(
    dy, y, dz, sums, channels, pixels, tiles, depth,
    dy_plane, dy_channel, dy_pixel, y_plane, y_channel, y_pixel, dz_plane, dz_channel, dz_pixel,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    across = tl.cdiv(pixels, PIXELS)
    first = tl.program_id(0) * depth
    sum = tl.zeros([CHANNELS, PIXELS], ACC)
    for tile in range(first, min(first + depth, tiles)):
        plane = (tile // across).to(tl.int64)
        pixel = (tile % across).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
        inside = (channel < channels)[:, None] & (pixel < pixels)[None, :]
        dy_at = plane * dy_plane + (channel * dy_channel)[:, None] + (pixel * dy_pixel)[None, :]
        g = tl.load(dy + dy_at, inside, 0)
        if y is not None:
            y_at = plane * y_plane + (channel * y_channel)[:, None] + (pixel * y_pixel)[None, :]
            dz_at = plane * dz_plane + (channel * dz_channel)[:, None] + (pixel * dz_pixel)[None, :]
            g = tl.where(tl.load(y + y_at, inside, 0) <= 0, 0, g)
            tl.store(dz + dz_at, g, inside)
        if sums is not None:
            sum += g.to(ACC)
    if sums is not None:
        to = sums + tl.program_id(0).to(tl.int64) * channels + channel
        tl.store(to, tl.sum(sum, 1), channel < channels)


def relu_backward(dy: Tensor, y: Tensor | None, dz: Tensor | None, db: Tensor | None) -> None:
    """Fills dz, where y is given, and db, where wanted; dy, y and dz are [planes, channels, pixels] of any strides."""
    planes, channels, pixels = dy.shape
    if channels == 0:
        return
    high = min(1 << bits(channels), ELEMENTS // min(WIDE, 1 << bits(pixels)))
    wide = min(1 << bits(pixels), ELEMENTS // high)
    tiles, blocks = planes * triton.cdiv(pixels, wide), triton.cdiv(channels, high)
    depth = max(1, triton.cdiv(tiles * blocks, PROGRAMS * processors(dy)))
    pieces = max(1, triton.cdiv(tiles, depth))
    sums = None if db is None else scratch(dy, pieces, channels)
    strides = [stride for t in (dy, y, dz) for stride in (t.stride() if t is not None else (0, 0, 0))]
    launch(
        relu_backward_kernel, (pieces, blocks), dy, y, dz, sums, channels, pixels, tiles, depth, *strides,
        CHANNELS=high, PIXELS=wide, ACC=accumulator(dy), num_warps=WARPS,
    )  # fmt: skip
    if db is not None:
        add_pieces(db, sums)
