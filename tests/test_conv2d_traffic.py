"""Bytes of global memory that conv2d's launches move, counted by csrc/simt, against the floor: x, w and y once each.

What threads ask for is counted: an element of the image once for each tap that meets it. From memory it comes once, as
neighbouring taps and tiles find it in the caches, which csrc/simt lacks.
"""

import pytest
import torch
from matrix import needs_simt
from traffic import launches

from torchext._shapes import out_size

pytestmark = needs_simt
ops = torch.ops.torchext
LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format
HALF, FLOAT, DOUBLE = torch.bfloat16, torch.float32, torch.float64


def taps_inside(size, kernel, stride, padding):
    out = out_size(size, kernel, stride, padding, 1)
    return sum(0 <= o * stride - padding + t < size for o in range(out) for t in range(kernel))


def products(dtype, layout, x, w, stride=1, padding=0, groups=1):
    """The launches of forward, of the input gradient and of the weight gradient; and what there is to convolve."""
    x, w, b = (torch.randn(s).to(dtype) for s in (x, w, w[:1]))
    x, w = x.to(memory_format=layout), w.to(memory_format=layout)
    geometry = [stride] * 2, [padding] * 2, [1, 1], groups, True
    results = []
    forward = launches(lambda: results.append(ops.conv2d_relu.simt(x, w, b, *geometry)))
    (y,) = results
    backward = lambda *wanted: launches(lambda: ops.conv2d_backward.simt(y, x, w, None, *geometry, *wanted))
    return (forward, backward(True, False, False), backward(False, True, False)), (x, w, y)


def moved(launched):
    return sum(launch["read"] + launch["written"] for launch in launched)


# What is convolved; and how often the floor forward, the input gradient and the weight gradient move at most.
ROWS = {
    "1 x 1": ((HALF, LAST, (2, 64, 8, 8), (64, 64, 1, 1)), (1.25, 1.25, 1.05)),
    "1 x 1 contiguous": ((FLOAT, CONTIGUOUS, (2, 64, 8, 8), (64, 64, 1, 1)), (1.25, 1.25, 1.85)),
    "3 x 3": ((HALF, LAST, (1, 32, 16, 16), (32, 32, 3, 3), 1, 1), (4.5, 4.5, 4.7)),
    "3 x 3 contiguous": ((FLOAT, CONTIGUOUS, (1, 32, 16, 16), (32, 32, 3, 3), 1, 1), (4.5, 4.5, 4.7)),
    "3 x 3 every other": ((HALF, LAST, (1, 32, 16, 16), (32, 32, 3, 3), 2, 1), (2.5, 1.8, 1.9)),
    "5 x 5 of one channel": ((FLOAT, CONTIGUOUS, (2, 1, 28, 28), (6, 1, 5, 5)), (4.5, 21, 4.3)),
    "grouped": ((DOUBLE, LAST, (1, 32, 8, 8), (32, 8, 3, 3), 1, 1, 4), (3.2, 3.2, 3.5)),
}


@pytest.mark.parametrize("row, bounds", ROWS.values(), ids=ROWS)
def test_a_product_moves_a_stated_multiple_of_the_floor(row, bounds):
    done, tensors = products(*row)
    floor = sum(t.numel() * t.element_size() for t in tensors)
    multiples = [moved(launched) / floor for launched in done]
    assert all(1 <= got <= bound for got, bound in zip(multiples, bounds)), multiples


@pytest.mark.parametrize("stride, padding", [(1, 1), (2, 1), (2, 0), (3, 2)])
@pytest.mark.parametrize("dtype, layout", [(HALF, LAST), (HALF, CONTIGUOUS), (FLOAT, LAST), (FLOAT, CONTIGUOUS)])
def test_no_product_reads_or_multiplies_what_is_outside_the_image(dtype, layout, stride, padding):
    """Nor the zeros that a stride leaves between dy's pixels: all three products pair the same pixels and taps."""
    done, (x, w, y) = products(dtype, layout, (2, 16, 11, 10), (24, 16, 3, 3), stride, padding)
    size, (n, c, height, width), k = dtype.itemsize, x.shape, w.shape[0]
    pairs = n * taps_inside(height, 3, stride, padding) * taps_inside(width, 3, stride, padding)
    first = lambda launched: [launch for launch in launched if "pieces" not in launch["kernel"]]
    forward, input_gradient, weight_gradient = map(first, done)
    read = lambda launched: sum(launch["read"] for launch in launched)
    tiles = -(-y.numel() // k // 64)
    bias = forward[0]["blocks"] * k  # also by blocks that sum a piece of the depth
    assert read(forward) == size * (pairs * c + tiles * w.numel() + bias)
    assert len(input_gradient) == stride**2
    pixels = lambda length, i: -(-(length - i) // stride)
    taps = lambda i: sum((i + padding - t) % stride == 0 for t in range(3))
    weights = sum(
        -(-n * pixels(height, i) * pixels(width, j) // 64) * taps(i) * taps(j) * c * k
        for i in range(stride)
        for j in range(stride)
    )
    assert read(input_gradient) == size * (pairs * k + weights)
    assert read(weight_gradient) == size * (pairs * c + -(-c * 9 // 64) * y.numel())


@pytest.mark.parametrize("layout", [LAST, CONTIGUOUS])
@pytest.mark.parametrize("dtype", [HALF, FLOAT, DOUBLE])
def test_every_result_is_written_once(dtype, layout):
    done, (x, w, y) = products(dtype, layout, (2, 16, 11, 10), (24, 16, 3, 3), 2, 1)
    for launched, result in zip(done, (y, x, w)):
        pieces = [launch for launch in launched if "pieces" in launch["kernel"]]
        written = sum(launch["written"] for launch in launched)
        partial = sum(launch["read"] for launch in pieces)  # each was written before it was read
        bias = w.shape[0] * dtype.itemsize
        accumulator = 8 if dtype is DOUBLE else 4
        once = result.numel() * dtype.itemsize
        assert once <= written <= once + partial and (partial == 0) == (not pieces)
        assert (written - once) % accumulator == 0 and partial - (written - once) in (0, bias * y.numel() // w.shape[0])


@pytest.mark.parametrize("layout", [LAST, CONTIGUOUS])
@pytest.mark.parametrize("dtype", [HALF, FLOAT, DOUBLE])
@pytest.mark.parametrize("shape", [(2, 16, 9, 8), (3, 5, 7, 7)])
def test_the_mask_reads_two_tensors_and_writes_one(dtype, layout, shape):
    x, w = torch.randn(shape).to(dtype).to(memory_format=layout), torch.randn(shape[1], shape[1], 1, 1).to(dtype)
    geometry = [1, 1], [0, 0], [1, 1], 1, True
    y = ops.conv2d_relu.simt(x, w, None, *geometry)
    done = launches(lambda: ops.conv2d_backward.simt(y, x, w, y, *geometry, True, False, True))
    mask, sums = (launch for launch in done if "conv2d" not in launch["kernel"])
    tensor, accumulator = y.numel() * dtype.itemsize, 8 if dtype is DOUBLE else 4
    assert mask["read"] == 2 * tensor
    partial = mask["written"] - tensor
    assert partial % (shape[1] * accumulator) == 0 and partial <= 3 * shape[1] * accumulator
    assert (sums["read"], sums["written"]) == (partial, shape[1] * dtype.itemsize)
