"""Bytes of global memory that max_pool2d's launches move, counted by csrc/simt, against the floor."""

import pytest
import torch
from matrix import DTYPES, needs_simt
from max_pool2d_cases import channels_last
from traffic import launches

pytestmark = needs_simt
ops = torch.ops.torchext


def taps_inside(size, out, k, stride, pad):
    return sum(0 <= o * stride - pad + t < size for o in range(out) for t in range(k))


def moved(dtype, shape, last, k, stride, pad, offsets=True):
    """(read, written) forward and backward; and how many of the outputs' taps are inside."""
    h, w = shape[2:]
    oh, ow = ((n + 2 * pad - k) // stride + 1 for n in (h, w))
    window = (k, k, stride, stride, pad, pad, 1, 1)
    x = torch.randn(shape).to(dtype)
    x = channels_last(x) if last else x

    def both():
        y, taps = ops.max_pool2d.simt(x, last, offsets, oh, ow, *window)
        if offsets:
            ops.max_pool2d_backward.simt(y, taps, last, h, w, *window)

    done = [(launch["read"], launch["written"]) for launch in launches(both)]
    outputs = shape[0] * shape[1] * oh * ow
    taps = shape[0] * shape[1] * taps_inside(h, oh, k, stride, pad) * taps_inside(w, ow, k, stride, pad)
    return done, outputs, taps, x.numel(), x.element_size()


SHAPES = [
    *(((2, 6, 24, 24), False), ((2, 6, 10, 14), False), ((1, 2, 9, 32), False), ((1, 3, 15, 17), False)),
    *(((2, 64, 8, 8), True), ((2, 6, 8, 10), True), ((1, 16, 7, 9), True)),
]


@pytest.mark.parametrize("shape, last", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [2, 3])
def test_windows_side_by_side_move_every_byte_once(dtype, shape, last, k):
    (forward, backward), outputs, taps, inputs, s = moved(dtype, shape, last, k, k, 0)
    floors = (taps * s, outputs * (s + 1)), (outputs * (s + 1), inputs * s)
    for got, floor in zip((*forward, *backward), (*floors[0], *floors[1])):
        assert floor <= got <= 1.05 * floor


@pytest.mark.parametrize("shape, last", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_that_overlap_read_each_tap_once_and_write_once(dtype, shape, last):
    """From memory x comes once, and so do dy and offsets: caches hold the rest, which csrc/simt lacks."""
    (forward, backward), outputs, taps, inputs, s = moved(dtype, shape, last, 3, 2, 1)
    assert forward == (taps * s, outputs * (s + 1))
    assert backward == (taps * (s + 1), inputs * s)


def test_unwanted_offsets_are_not_written():
    ((_, written),), outputs, *_ = moved(torch.float32, (2, 6, 24, 24), False, 2, 2, 0, offsets=False)
    assert written == outputs * 4


@pytest.mark.parametrize("last", [False, True])
def test_indices_read_a_byte_and_write_eight(last):
    offsets = torch.zeros(2, 6, 9, 7, dtype=torch.uint8)
    (launch,) = launches(lambda: ops.max_pool2d_indices.simt(offsets, last, 14, 2, 2, 2, 2, 0, 0, 1, 1))
    assert (launch["read"], launch["written"]) == (offsets.numel(), 8 * offsets.numel())


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8)])
def test_an_empty_input_launches_nothing(shape):
    assert moved(torch.float32, shape, False, 2, 2, 0)[0] == []
