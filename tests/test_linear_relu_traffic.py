"""Bytes of global memory that linear_relu's launches move, counted by csrc/simt, against the floor."""

import pytest
import torch
from matrix import DTYPES, needs_simt
from traffic import launches

from torchext._linear_relu_route import OUR_PRODUCT

pytestmark = needs_simt
ops = torch.ops.torchext


def products(dtype, m, k, n):
    """The launches of forward, mask, dx and dw; and the bytes of x, w and y."""
    x, w, dy = (torch.randn(s).to(dtype) for s in ((m, k), (n, k), (m, n)))
    results = []
    forward = launches(lambda: results.append(ops.linear_relu.simt(x, w, None, OUR_PRODUCT)))
    (y,) = results
    dx, dw = (
        launches(lambda w_=wanted: ops.linear_backward.simt(dy, x, w, None, OUR_PRODUCT, *w_))
        for wanted in ((1, 0, 0), (0, 1, 0))
    )
    mask = launches(lambda: ops.linear_backward.simt(dy, x, w, y, OUR_PRODUCT, False, False, True))
    return (forward, dx, dw), mask, [t.numel() * t.element_size() for t in (x, w, y)]


def moved(launched):
    return sum(launch["read"] + launch["written"] for launch in launched)


# (m, k, n); and how many times the floor of x, w and y forward, dx and dw may move: an operand is read once for each
# tile of the other side, and where k is split its pieces are written and read.
ROWS = [((64, 64, 64), 1), ((128, 32, 64), 1.6), ((256, 64, 256), 2), ((33, 600, 24), 1.4), ((130, 35, 70), 1.9)]


@pytest.mark.parametrize("shape, bound", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_moves_a_stated_multiple_of_the_floor(dtype, shape, bound):
    done, _, tensors = products(dtype, *shape)
    multiples = [moved(launched) / sum(tensors) for launched in done]
    assert all(1 <= got <= bound for got in multiples), multiples


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m, n", [(64, 64), (130, 24), (300, 7)])
def test_the_mask_reads_two_tensors_and_writes_sums_of_128_rows(dtype, m, n):
    _, (mask, sums), (*_, y) = products(dtype, m, 8, n)
    partial = -(-m // 128) * n * (8 if dtype is torch.float64 else 4)
    assert (mask["read"], mask["written"]) == (2 * y, partial)
    assert (sums["read"], sums["written"]) == (partial, n * dtype.itemsize)
