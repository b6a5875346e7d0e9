"""Winograd's algorithm behind conv2d and conv2d_relu on the CPU: 3 x 3 and 5 x 5 windows, many channels, float32."""

import itertools

import pytest
import torch
from conv2d_cases import FUNCTIONS, LAST, LAYOUTS, both, bound, stock_conv2d_relu
from hypothesis import given
from hypothesis import strategies as st
from matrix import Case
from torch import library
from torch.nn import functional as stock_F

from torchext import _conv2d_plan
from torchext.nn import functional as F


@pytest.fixture(params=FUNCTIONS)
def pair(request):
    return FUNCTIONS[request.param]


def leaves_of(n, c, h, w, k, side, bias=True):
    x = torch.randn(n, c, h, w, requires_grad=True)
    weight = (torch.randn(k, c, side, side) / (c * side * side) ** 0.5).requires_grad_()
    return [x, weight, *([torch.randn(k, requires_grad=True)] if bias else [])]


def plan_of(x, w, **options):
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | options
    return _conv2d_plan.plan("conv2d", x, w, None, **defaults)


def is_winograds(x, w, **options):
    return _conv2d_plan.algorithm(x, w, plan_of(x, w, **options)) == _conv2d_plan.BY_WINOGRAD


SHAPES = {  # n, c, h, w, k, side; padding
    "one tile": ((1, 16, 3, 3, 16, 3), 0),
    "part of a tile": ((2, 16, 3, 3, 16, 3), (1, 0)),
    "3 x 3": ((3, 32, 10, 13, 48, 3), 1),
    "wide padding": ((2, 16, 5, 4, 32, 3), 2),
    "5 x 5": ((3, 16, 11, 9, 32, 5), 2),
    "5 x 5, wide padding": ((2, 32, 7, 6, 16, 5), (4, 3)),
    "5 x 5, many channels": ((2, 64, 9, 8, 64, 5), 2),
    "bands of several images": ((29, 16, 5, 5, 16, 3), 1),
    "bands of one row": ((1, 16, 7, 211, 16, 3), 1),
    "uneven panels": ((2, 80, 6, 6, 112, 3), 1),
    "blocks of channels": ((2, 144, 6, 6, 64, 3), 1),
    "rows 2048 bytes apart": ((2, 512, 10, 10, 16, 3), 1),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape, padding", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_match_stock_judged_by_float64(cpu_isa, pair, shape, padding, bias):
    leaves = leaves_of(*shape, bias)
    assert is_winograds(*leaves[:2], padding=padding)
    ours, stock = both(pair, padding=padding)
    Case(cpu_isa, torch.float32).assert_same_as_stock(ours, stock, leaves, kink=bound(stock_F.conv2d, padding=padding))


@given(
    n=st.integers(1, 5), c=st.integers(1, 3), k=st.integers(1, 3), side=st.sampled_from([3, 5]),
    image=st.tuples(st.integers(1, 12), st.integers(1, 12)), padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    relu=st.booleans(), bias=st.booleans(), last=st.booleans(), grads=st.tuples(*[st.booleans()] * 3),
)  # fmt: skip
def test_any_options(n, c, k, side, image, padding, relu, bias, last, grads):
    torch.manual_seed(n * 97 + c * 31 + k)
    h, w = (max(size, side - 2 * pad) for size, pad in zip(image, padding))
    leaves = leaves_of(n, 16 * c, h, w, 16 * k, side, bias)
    x = leaves[0].detach().to(memory_format=LAST if last else torch.contiguous_format)
    leaves = [t.detach().requires_grad_(g) for t, g in zip((x, *leaves[1:]), grads)]
    ours, stock = FUNCTIONS["conv2d_relu" if relu else "conv2d"]
    y, want = ours(*leaves, padding=padding), stock(*leaves, padding=padding)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(y, want, **close)
    assert y.stride() == want.stride()
    wanted = [t for t in leaves if t.requires_grad]
    if wanted:
        dy = torch.randn_like(want) * (want.detach().abs() > 1e-4)
        gradients = (torch.autograd.grad(out, wanted, dy) for out in (y, want))
        for got, stocks in zip(*gradients):
            torch.testing.assert_close(got, stocks, **close)
            assert got.stride() == stocks.stride()


@pytest.mark.parametrize("image, weight", itertools.product([torch.contiguous_format, LAST], repeat=2))
def test_memory_formats_match_stock(pair, image, weight):
    x, w = (t.detach() for t in leaves_of(3, 16, 6, 7, 32, 3, False))
    leaves = [x.to(memory_format=image).requires_grad_(), w.to(memory_format=weight).requires_grad_()]
    results = []
    for function in pair:
        y = function(*leaves)
        results.append((y, *torch.autograd.grad(y.sum(), leaves)))
    assert [t.stride() for t in results[0]] == [t.stride() for t in results[1]]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_of_inputs_and_gradient(cpu_isa, pair, layout):
    x, w = (t.detach() for t in leaves_of(4, 16, 6, 6, 16, 3, False))
    leaves = [layout(t).detach().requires_grad_() for t in (x, w)]
    dy = layout(torch.randn(4, 16, 6, 6))
    gradients = [torch.autograd.grad(f(*leaves, padding=1), leaves, dy) for f in pair]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("where", ["input", "weight", "bias", "gradient"])
def test_non_finite_values_propagate_as_in_stock(pair, where, bad):
    """Also finite values that overflow only in the transforms: 3e38 beside 3e38, under weights of 0."""
    leaves = [t.detach() for t in leaves_of(2, 16, 8, 8, 16, 3)]
    dy = torch.randn(2, 16, 8, 8)
    tensor = dict(zip(("input", "weight", "bias"), leaves), gradient=dy)[where]
    tensor[(1,) * tensor.dim()] = bad
    if bad == 3e38:
        tensor.flatten()[0], tensor.flatten()[2] = bad, -bad
        if where == "input":
            leaves[1].zero_()
    leaves = [t.requires_grad_() for t in leaves]
    results = []
    for function in pair:
        y = function(*leaves, padding=1)
        results.append((y, *torch.autograd.grad(y, leaves, dy)))
    for ours, stock in zip(*results):
        torch.testing.assert_close(ours.isnan(), stock.isnan())
        torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_winograds_algorithm_runs(pair):
    """Its roundings differ from the library's and the direct kernel's."""
    leaves = leaves_of(4, 32, 9, 9, 32, 3)
    geometry = plan_of(*leaves[:2]).geometry
    ours = pair[0](*leaves)
    name = "conv2d_relu" if pair is FUNCTIONS["conv2d_relu"] else "conv2d"
    op, backward = getattr(torch.ops.torchext, name), torch.ops.torchext.conv2d_backward
    with torch.no_grad():
        results = [op(*leaves, *geometry, algorithm) for algorithm in range(3)]
    assert torch.equal(ours, results[_conv2d_plan.BY_WINOGRAD])
    assert not any(torch.equal(ours, results[other]) for other in (_conv2d_plan.LIBRARYS, _conv2d_plan.DIRECTLY))
    dy = torch.randn_like(ours)
    mask = ours.detach() if name == "conv2d_relu" else None
    with torch.no_grad():
        results = [backward(dy, *leaves[:2], mask, *geometry, a, True, True, True) for a in range(3)]
    gradients = torch.autograd.grad(ours, leaves, dy)
    for i, gradient in enumerate(gradients):
        assert torch.equal(gradient, results[_conv2d_plan.BY_WINOGRAD][i])
    for i in (0, 1):
        assert not any(torch.equal(gradients[i], results[a][i]) for a in (_conv2d_plan.LIBRARYS, _conv2d_plan.DIRECTLY))


@pytest.mark.parametrize(
    "shape, options",
    [
        ((4, 16, 9, 9, 16, 3), {"stride": 2}),
        ((4, 16, 9, 9, 16, 3), {"dilation": 2}),
        ((4, 16, 9, 9, 16, 3), {"padding": 3}),
        ((4, 16, 9, 9, 16, 1), {}),
        ((4, 16, 9, 9, 16, 7), {}),
        ((4, 24, 9, 9, 16, 3), {}),
        ((4, 16, 9, 9, 24, 3), {}),
    ],
)
def test_other_convolutions_take_another_algorithm(shape, options):
    x, w = leaves_of(*shape, False)
    assert not is_winograds(x, w, **options)
    torch.testing.assert_close(F.conv2d(x, w, **options), stock_F.conv2d(x, w, **options), rtol=1e-4, atol=1e-4)


def test_other_dtypes_and_groups_take_another_algorithm():
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert not is_winograds(torch.randn(4, 16, 9, 9, dtype=dtype), torch.randn(16, 16, 3, 3, dtype=dtype))
    assert not is_winograds(torch.randn(4, 32, 9, 9), torch.randn(32, 16, 3, 3), groups=2)


@pytest.mark.parametrize("change", [{"stride": [2, 2]}, {"dilation": [2, 2]}, {"padding": [3, 3]}, {"dtype": "double"}])
def test_the_op_takes_another_algorithm_where_winograds_cannot_serve(change):
    x, w, b = (t.detach() for t in leaves_of(2, 16, 9, 9, 16, 3))
    dtype = getattr(torch, change.pop("dtype", "float"))
    options = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1} | change
    x, w, b = x.to(dtype), w.to(dtype), b.to(dtype)
    y = torch.ops.torchext.conv2d(x, w, b, *options.values(), _conv2d_plan.BY_WINOGRAD)
    torch.testing.assert_close(y, stock_F.conv2d(x, w, b, **options))


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_opcheck(name, layout):
    x, w, b = (t.detach() for t in leaves_of(3, 16, 6, 5, 32, 3))
    x = x.to(memory_format=layout)
    geometry = ([1, 1], [1, 0], [1, 1], 1, _conv2d_plan.BY_WINOGRAD)
    op, backward = getattr(torch.ops.torchext, name).default, torch.ops.torchext.conv2d_backward.default
    library.opcheck(op, (x, w, b, *geometry))
    y = op(x, w, b, *geometry)
    for wanted in ((True, True, True), (False, True, False), (True, False, True)):
        library.opcheck(backward, (y, x, w, y, *geometry, *wanted))
        library.opcheck(backward, (y, x, w, None, *geometry, *wanted))


def test_results_do_not_depend_on_the_number_of_threads(threads, pair):
    leaves = leaves_of(40, 32, 12, 12, 48, 3)
    results = []
    for count in (1, 2):
        threads(count)
        y = pair[0](*leaves, padding=1)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    assert all(torch.equal(one, two) for one, two in zip(*results))


def test_inputs_and_gradients_are_not_modified(pair, saved_bytes):
    leaves = leaves_of(3, 16, 6, 6, 16, 3)
    dy = torch.randn(3, 16, 4, 4)
    before = [t.detach().clone() for t in (*leaves, dy)]
    y = pair[0](*leaves)
    first = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    second = torch.autograd.grad(y, leaves, dy)
    assert all(torch.equal(a, b) for a, b in zip(before, (*leaves, dy)))
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert saved_bytes(pair[0], *leaves) == 0


def test_second_derivatives_match_stock(pair):
    leaves = leaves_of(2, 16, 5, 5, 16, 3)
    results = []
    for function in pair:
        first = torch.autograd.grad(function(*leaves).square().sum(), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    for ours, stock in zip(*results):
        torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-3 * float(stock.abs().max()))


@pytest.mark.native
def test_a_pooled_winograd_convolution_is_followed_by_our_pooling(trace):
    x, w = leaves_of(4, 16, 10, 10, 16, 3, False)
    with trace() as ops:
        y = F.conv2d_relu_max_pool2d(x, w, padding=1, pool_kernel_size=2)
    assert [op for op in ops if op.startswith("torchext")] == [
        "torchext.conv2d_relu.default",
        "torchext.max_pool2d.default",
    ]
    torch.testing.assert_close(y, stock_F.max_pool2d(stock_conv2d_relu(x, w, padding=1), 2), rtol=1e-4, atol=1e-4)
