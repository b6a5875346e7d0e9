"""conv2d's direct kernel with pixels in lanes: contiguous images whose rows fill vectors of any width."""

import pytest
import torch
from conv2d_cases import FUNCTIONS
from matrix import DTYPES, Case
from torch.nn import functional as stock_F

from torchext.nn import functional as F

SHAPES = {  # x, w, options: rows of 28 to 64 results, on every instruction set at least 7/8 of their vectors
    "padded": ((17, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}),
    "3 channels": ((3, 3, 9, 32), (16, 3, 3, 3), {"padding": 1}),
    "rows strided": ((2, 2, 11, 34), (7, 2, 3, 3), {"stride": (2, 1)}),
    "columns dilated": ((2, 2, 8, 36), (4, 2, 3, 3), {"dilation": (2, 2)}),
    "fewer taps than a tile": ((2, 1, 5, 64), (3, 1, 1, 3), {"padding": (0, 1)}),
    "one row": ((1, 1, 1, 30), (5, 1, 1, 3), {}),
}


def leaves_of(x, w, dtype=torch.float32):
    return [torch.randn(s, dtype=torch.float64).to(dtype).requires_grad_() for s in (x, w, w[:1])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("x, w, options", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_match_stock_judged_by_float64(cpu_isa, dtype, pair, x, w, options):
    ours, stock, kink = (lambda *t, f=f: f(*t, **options) for f in (*pair, stock_F.conv2d))
    for wanted in ((True, True, True), (False, True, True), (False, False, True)):
        leaves = [t.requires_grad_(want) for t, want in zip(leaves_of(x, w, dtype), wanted)]
        Case(cpu_isa, dtype).assert_same_as_stock(ours, stock, leaves, kink=kink)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("column", [0, 17, 29])
def test_non_finite_values_propagate_as_in_stock(cpu_isa, bad, column):
    """Lanes past the end of a row hold 0 in dz, and 0 times infinity would be a NaN that stock does not give."""
    x, w, b = (t.detach() for t in leaves_of((3, 1, 6, 30), (4, 1, 3, 3)))
    x[1, 0, 2, column] = bad
    leaves = [t.requires_grad_() for t in (x, w, b)]
    dy = torch.rand(3, 4, 4, 28) + 0.5
    results = []
    for function in (F.conv2d, stock_F.conv2d):
        y = function(*leaves)
        results.append((y, *torch.autograd.grad(y, leaves, dy)))
    torch.testing.assert_close(*results, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_results_do_not_depend_on_the_number_of_threads(threads):
    leaves = leaves_of((70, 1, 28, 28), (16, 1, 5, 5))
    results = []
    for count in (1, 2):
        threads(count)
        y = F.conv2d(*leaves, padding=2)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    assert all(torch.equal(one, two) for one, two in zip(*results))
