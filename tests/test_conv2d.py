"""conv2d and conv2d_relu against stock and float64: values and gradients under every option and layout."""

import itertools

import pytest
import torch
from conv2d_cases import FUNCTIONS, LAST, LAYOUTS, both, bound
from hypothesis import given
from hypothesis import strategies as st
from matrix import Case
from torch.nn import functional as stock_F

import torchext


@pytest.fixture(params=FUNCTIONS)
def pair(request):
    return FUNCTIONS[request.param]


SHAPES = {  # x, w, options
    "LeNet's first": ((17, 1, 28, 28), (6, 1, 5, 5), {}),
    "LeNet's second": ((16, 6, 12, 12), (16, 6, 5, 5), {}),
    "3 x 3 padded": ((3, 3, 9, 10), (5, 3, 3, 3), {"padding": 1}),
    "strided, uneven": ((33, 2, 11, 8), (7, 2, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    "dilated": ((1, 2, 12, 9), (4, 2, 3, 2), {"dilation": (2, 3), "padding": (2, 1)}),
    "grouped": ((5, 6, 7, 7), (8, 3, 3, 3), {"groups": 2, "padding": "same"}),
    "depthwise": ((4, 9, 8, 8), (18, 1, 3, 3), {"groups": 9, "stride": 2}),
    "1 x 1": ((18, 8, 5, 3), (3, 8, 1, 1), {}),
    "kernel larger than the image": ((2, 2, 2, 3), (3, 2, 5, 4), {"padding": (2, 1)}),
    "stride past the kernel": ((3, 4, 13, 13), (4, 4, 1, 2), {"stride": 3}),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_match_stock_judged_by_float64(case, pair, shape):
    (n, *x), w, options = shape
    n = min(n, 3) if case.overload != "default" else n  # enough for every tile; on the CPU images fill the vectors
    leaves = case.leaf(n, *x), case.leaf(*w, scale=0.3), case.leaf(w[0])
    case.assert_same_as_stock(*both(pair, **options), leaves, kink=bound(stock_F.conv2d, **options))
    case.assert_same_as_stock(*both(pair, **options), leaves[:2], kink=bound(stock_F.conv2d, **options))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("image, weight", itertools.product([torch.contiguous_format, LAST], repeat=2))
def test_memory_formats_match_stock(conv2d_kernel, pair, dtype, image, weight):
    x = torch.randn(5, 3, 6, 7, dtype=dtype).to(memory_format=image).requires_grad_()
    w = torch.randn(4, 3, 3, 3, dtype=dtype).to(memory_format=weight).requires_grad_()
    Case("default", dtype).assert_same_as_stock(*pair, (x, w), kink=bound(stock_F.conv2d))
    results = []
    for function in pair:
        y = function(x, w)
        results.append((y, *torch.autograd.grad(y.sum(), x)))
    assert [t.stride() for t in results[0]] == [t.stride() for t in results[1]]


@given(
    n=st.integers(1, 18), c=st.integers(1, 4), k=st.integers(1, 7), groups=st.integers(1, 3),
    image=st.tuples(st.integers(1, 9), st.integers(1, 9)), window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)), padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)), bias=st.booleans(), relu=st.booleans(),
    last=st.booleans(), grads=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)  # fmt: skip
def test_any_options(n, c, k, groups, image, window, stride, padding, dilation, bias, relu, last, grads):
    torch.manual_seed(n * 97 + c * 31 + k)
    ours, stock = FUNCTIONS["conv2d_relu" if relu else "conv2d"]
    x = torch.randn(n, c * groups, *image, dtype=torch.float64)
    x = x.to(memory_format=LAST) if last else x
    w, b = torch.randn(k * groups, c, *window, dtype=torch.float64), torch.randn(k * groups, dtype=torch.float64)
    tensors = [t.requires_grad_(g) for t, g in zip((x, w, b), grads)][: 3 if bias else 2]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    try:
        want = stock(*tensors, **options)
    except RuntimeError:
        with pytest.raises(RuntimeError, match=r"larger than|kernel size"):
            ours(*tensors, **options)
        return
    with torchext.backend("native"):
        y = ours(*tensors, **options)
        torch.testing.assert_close(y, want)
        wanted = [t for t in tensors if t.requires_grad]
        if wanted:
            dy = torch.randn_like(want)
            torch.testing.assert_close(torch.autograd.grad(y, wanted, dy), torch.autograd.grad(want, wanted, dy))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("window", [(2, 2), (3, 4), (5, 3)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_by_name(pair, padding, window, dilation):
    x, w = torch.randn(3, 2, 11, 12), torch.randn(4, 2, *window)
    ours, stock = (f(x, w, padding=padding, dilation=dilation) for f in pair)
    torch.testing.assert_close(ours, stock)


@pytest.mark.parametrize("n", [0, 1, 3, 16, 17, 33])
def test_any_batch(case, pair, n):
    leaves = case.leaf(n, 2, 6, 6), case.leaf(3, 2, 3, 3), case.leaf(3)
    case.assert_same_as_stock(*pair, leaves, kink=stock_F.conv2d)


def test_one_image_without_batch_dimension(case, pair):
    leaves = case.leaf(2, 6, 6), case.leaf(3, 2, 3, 3), case.leaf(3)
    case.assert_same_as_stock(*pair, leaves, kink=stock_F.conv2d)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_of_inputs_and_gradient(case, conv2d_kernel, pair, layout):
    x, w = (layout(case.tensor(4, 3, 5, 5)).detach().requires_grad_() for _ in range(2))
    leaves = [x, w, case.leaf(4)]
    case.assert_same_as_stock(*both(pair, padding=1), leaves, kink=bound(stock_F.conv2d, padding=1))
    results = []
    for function in pair:
        y = function(*leaves)
        results.append(torch.autograd.grad(y, leaves, layout(torch.ones_like(y))))
    for ours, stock in zip(*results):
        case.assert_close(ours, stock, stock.double())


def test_nan_and_infinity_propagate(case, conv2d_kernel, pair, cudnn):
    cudnn(enabled=False)  # some of its algorithms spread a NaN further
    x = case.tensor(3, 2, 6, 6)
    x[0, 0, 0, 0], x[1, 1, 3, 3], x[2, 0, 5, 5] = float("nan"), float("inf"), float("-inf")
    x = x.requires_grad_()
    w = torch.ones(3, 2, 3, 3, dtype=case.dtype)
    results = []
    for function in pair:
        y = function(x, w)
        results.append((y, *torch.autograd.grad(y, x, torch.ones_like(y))))
    torch.testing.assert_close(*results, equal_nan=True)


@pytest.mark.native
def test_our_kernel_ran_forward_and_backward(case, pair, trace):
    leaves = [case.leaf(5, 2, 6, 6), case.leaf(3, 2, 3, 3), case.leaf(3)]
    with trace() as ops:
        pair[0](*leaves).sum().backward()
    name = "conv2d_relu" if pair is FUNCTIONS["conv2d_relu"] else "conv2d"
    assert {f"torchext.{name}.{case.overload}", f"torchext.conv2d_backward.{case.overload}"} <= set(ops)
    assert not any(op.startswith(("aten.conv", "aten.relu", "aten.threshold_backward", "aten.mkldnn")) for op in ops)


@pytest.mark.native
def test_results_do_not_depend_on_the_number_of_threads(threads, conv2d_kernel, pair):
    leaves = [torch.randn(*s, requires_grad=True) for s in ((300, 3, 20, 20), (6, 3, 5, 5), (6,))]
    results = []
    for count in (1, 2):
        threads(count)
        y = pair[0](*leaves)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    if conv2d_kernel == "direct":
        assert all(torch.equal(one, two) for one, two in zip(*results))
