"""max_pool2d of adjacent 2x2 windows, channels last in whole vectors: the kernel that needs no scalar loop."""

import pytest
import torch
from matrix import DTYPES
from torch.nn import functional as stock_F

from torchext.nn import functional as F

LAST = torch.channels_last


def assert_as_stock(x):
    x = x.to(memory_format=LAST).requires_grad_()
    results = []
    for functional in (F, stock_F):
        y, indices = functional.max_pool2d(x, 2, return_indices=True)
        dy = torch.arange(1, y.numel() + 1).reshape(y.shape).to(y.dtype)
        results.append((y, indices, *torch.autograd.grad(y, x, dy)))
    for ours, stock in zip(*results):
        torch.testing.assert_close(ours, stock, rtol=0, atol=0, equal_nan=True)
        assert ours.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 16, 2, 2), (3, 16, 6, 10), (2, 48, 4, 8), (1, 32, 2, 30)])
def test_values_indices_and_gradients_match_stock_to_the_bit(cpu_isa, dtype, shape):
    assert_as_stock(torch.randn(shape).to(dtype))


def test_the_first_of_equal_values_wins(cpu_isa):
    assert_as_stock(torch.randint(0, 2, (4, 16, 8, 8)).float())
    assert_as_stock(torch.full((1, 16, 4, 4), float("-inf")))
    assert_as_stock(torch.tensor([0.0, -0.0]).repeat(8 * 16).reshape(1, 16, 4, 4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_last_nan_wins_and_infinities_are_numbers(cpu_isa, dtype):
    x = torch.randn(4, 32, 8, 8).to(dtype)
    where = torch.rand_like(x, dtype=torch.float32)
    x[where < 0.15], x[where > 0.8], x[where > 0.9] = float("nan"), float("inf"), float("-inf")
    assert_as_stock(x)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_thread_ranges_that_begin_inside_a_window(threads, count):
    """25 images of 30 rows: ranges of two or three threads meet at an odd row of dx."""
    threads(count)
    assert_as_stock(torch.randn(25, 64, 30, 18))
    assert_as_stock(torch.randn(3, 64, 42, 42))
