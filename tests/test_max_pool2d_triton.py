"""The Triton kernels of max_pool2d: every bit, the edges of tiles, numbers beyond 31 bits."""

import itertools

import pytest
import torch
from matrix import TRITON, on_device_of
from max_pool2d_cases import NAN, WINDOWS, channels_last, run

if not TRITON:
    pytest.skip("needs Triton, and a GPU or its interpreter", allow_module_level=True)

from torchext.kernels import max_pool2d_tile

APART = [(2, 8, 0, 1, False), (3, 4, 1, 1, False), (1, 1, 0, 1, False)]


def assert_same_bits(x, window, last, dead=False):
    x = channels_last(x) if last else x
    with on_device_of("triton"):
        there = torch.empty(0).device
    for ours, cpu in zip(run("triton", x.to(there), window, last, dead), run("default", x, window, last, dead)):
        assert ours.stride() == cpu.stride()
        torch.testing.assert_close(ours.cpu(), cpu, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("window", [*WINDOWS, *APART], ids=str)
def test_every_bit_is_that_of_the_cpu_kernels_across_the_edges_of_tiles(monkeypatch, window, last):
    monkeypatch.setattr(max_pool2d_tile, "ELEMENTS", 64)
    monkeypatch.setattr(max_pool2d_tile, "WIDEST", 16)
    for dtype, dead in ((torch.float32, False), (torch.bfloat16, True)):
        x = torch.randn(1, 3, 9, 20).mul(2).round().to(dtype)  # ties
        x.flatten()[::17] = NAN
        assert_same_bits(x, window, last, dead)


def test_strides_and_dilations_beyond_31_bits():
    for last, huge in itertools.product((False, True), (2**31 - 1, 2**31, 2**40)):
        for window in ((2, huge, 0, 1, False), ((1, 2), 1, 0, (huge, 1), False)):
            assert_same_bits(torch.randn(2, 8, 5, 6), window, last)
