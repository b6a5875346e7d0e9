"""batch_norm_relu_max_pool2d against stock, float64 and the tools made to check ops."""

import pytest
import torch
from batch_norm_relu_max_pool2d_cases import LAST, ours, stock, window
from hypothesis import assume, given
from hypothesis import strategies as st
from max_pool2d_cases import LAYOUTS

NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def bound(function, options):
    return lambda *tensors: function(*tensors, **options)


SHAPES = {
    "the CNN's first": ((3, 5, 28, 28), {}),
    "the CNN's second": ((5, 4, 14, 14), {}),
    "a row of outputs shorter than any vector": ((7, 3, 6, 2), {}),
    "planes in several units": ((2, 3, 90, 70), {}),
    "odd map": ((3, 5, 13, 11), {}),
    "overlapping windows": ((4, 6, 15, 18), window(3, 2, 1)),
    "overlapping windows in several units": ((2, 19, 31, 40), window(3, 1, 1)),
    "gaps between windows": ((3, 4, 12, 12), window((1, 2), 3)),
    "ceil mode": ((3, 5, 8, 9), window(2, 2, 0, True)),
    "no pooling": ((3, 5, 7, 9), window(1, 1)),
    "window of the whole map": ((6, 9, 5, 4), window((5, 4), 1)),
    "one channel": ((9, 1, 8, 8), {}),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_match_stock_judged_by_float64(case, shape, last):
    size, options = shape
    x = (torch.randn(size, dtype=torch.float64) * 2 + 3).to(case.dtype)
    x = (x.contiguous(memory_format=LAST) if last else x).requires_grad_()
    leaves = x, case.leaf(size[1]), case.leaf(size[1])
    pair = bound(ours, options), bound(stock, options)
    if case.dtype in (torch.float64, torch.float32):
        case.assert_same_as_stock(*pair, leaves)
    else:  # a rounding may move the maximum, and the gradient with it: values only
        case.assert_close(pair[0](*leaves), pair[1](*leaves), pair[1](*(t.detach().double() for t in leaves)))
    y, want = pair[0](*leaves), pair[1](*leaves)
    assert y.stride() == want.stride()
    (dx,), (want_dx,) = (torch.autograd.grad(t.sum(), x) for t in (y, want))
    assert dx.stride() == want_dx.stride()


@pytest.mark.parametrize("last", [False, True])
def test_gradients_in_sixteen_bits_go_to_the_maximum(case, last):
    """Values are far apart, so no rounding moves a maximum or changes a sign."""
    x = (torch.randperm(4 * 3 * 6 * 8).view(4, 3, 6, 8) % 256 - 128).to(case.dtype)
    x = x.contiguous(memory_format=LAST) if last else x
    w, b = torch.tensor([1.0, -2.0, 0.5], dtype=case.dtype), torch.tensor([0.25, -0.5, 1.0], dtype=case.dtype)
    case.assert_same_as_stock(ours, stock, [t.requires_grad_() for t in (x, w, b)])


@given(
    n=st.integers(1, 5), c=st.integers(1, 20), size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)), stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), ceil=st.booleans(), last=st.booleans(),
)  # fmt: skip
def test_any_window_on_any_map(isa, n, c, size, kernel, stride, padding, ceil, last):
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel))
    assume(all(s + 2 * p >= k for s, p, k in zip(size, padding, kernel)) and n * size[0] * size[1] > 1)
    x = torch.randn(n, c, *size, dtype=torch.float64)
    x = (x.contiguous(memory_format=LAST) if last else x).requires_grad_()
    w, b = torch.randn(c, dtype=torch.float64, requires_grad=True), torch.randn(c, dtype=torch.float64)
    options = window(kernel, stride, padding, ceil)
    y, want = ours(x, w, b, **options), stock(x, w, b, **options)
    torch.testing.assert_close(y, want)
    dy = torch.randn_like(y)
    torch.testing.assert_close(*(torch.autograd.grad(t, (x, w), dy) for t in (y, want)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0])
@pytest.mark.parametrize("last", [False, True])
def test_running_statistics_match_stock(case, momentum, last):
    x = case.tensor(6, 5, 8, 7) * 3 + 2
    x = x.contiguous(memory_format=LAST) if last else x
    results = []
    for function, dtype in ((stock, torch.float64), (stock, case.dtype), (ours, case.dtype)):
        mean, var = (torch.full((5,), value, dtype=dtype) for value in (0.5, 2.0))
        for _ in range(2):
            function(x.to(dtype), mean=mean, var=var, momentum=momentum)
        results.append((mean, var))
    for exact, theirs, actual in zip(*results):
        case.assert_close(actual, theirs, exact)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("mean", [1e4, -3e2])
def test_a_mean_far_from_zero_loses_no_precision(case, mean, last):
    if case.dtype != torch.float32:
        pytest.skip("in 16 bits the input has lost its digits, and float64 has no more exact reference")
    x = torch.randn(4, 6, 30, 32, dtype=torch.float64).add(mean).to(case.dtype)
    x = (x.contiguous(memory_format=LAST) if last else x).requires_grad_()
    case.assert_same_as_stock(ours, stock, (x, case.leaf(6), case.leaf(6)))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("options", [{}, window(3, 2, 1), window(1, 1)], ids=str)
@pytest.mark.parametrize("edge", [NAN, INF, -INF])
def test_nan_and_infinity_spread_as_in_stock(isa, edge, options, last):
    x = torch.randn(2, 9, 12, 18)
    x[0, 1, 3, 4] = x[1, 8, 11, 17] = edge
    x = (x.contiguous(memory_format=LAST) if last else x).requires_grad_()
    w, b = torch.randn(9).requires_grad_(), torch.randn(9).requires_grad_()
    results = []
    for function in (stock, ours):
        y = function(x, w, b, **options)
        results.append((y, *torch.autograd.grad(y, (x, w, b), torch.ones_like(y))))
    torch.testing.assert_close(*results, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_ties_go_to_the_first_and_a_dead_window_passes_nothing(isa):
    """Channel 0 is constant, so every z is b, above 0. Channel 1 is all below 0."""
    x = torch.randn(2, 2, 8, 8)
    x[:, 0] = 3
    x.requires_grad_()
    w, b = torch.ones(2), torch.tensor([1.0, -100.0])
    dy = torch.randn(2, 2, 4, 4)
    y, offsets, _ = torch.ops.torchext.batch_norm_relu_max_pool2d(x, w, b, 1e-5, False, 4, 4, 2, 2, 2, 2, 0, 0)
    assert (offsets[:, 0] == 0).all() and (offsets[:, 1] == 255).all() and (y[:, 1] == 0).all()
    for function in (ours, stock):
        (dx,) = torch.autograd.grad(function(x, w, b), x, dy)
        assert (dx[:, 1] == 0).all()


@pytest.mark.parametrize("dy_layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_of_input_and_gradient(layout, dy_layout):
    x, dy = layout(torch.randn(2, 6, 14, 12)).requires_grad_(), dy_layout(torch.randn(2, 6, 7, 6))
    y, want = ours(x), stock(x)
    torch.testing.assert_close(y, want)
    assert y.stride() == want.stride()
    (dx,), (want_dx,) = (torch.autograd.grad(t, x, dy) for t in (y, want))
    torch.testing.assert_close(dx, want_dx, rtol=1e-4, atol=1e-5)
    assert dx.stride() == want_dx.stride()
