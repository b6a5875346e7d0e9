"""conv2d_relu_max_pool2d against stock and float64: values and gradients, routes, errors, the module."""

import pytest
import torch
from conv2d_relu_max_pool2d_cases import LAST, ours, stock
from hypothesis import given
from hypothesis import strategies as st
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import nn


def bound(function, options):
    return lambda *tensors: function(*tensors, **options)


@pytest.fixture(autouse=True)
def native():
    """Ours wherever it can serve: our direct kernel for all but the largest shapes."""
    with torchext.backend("native"):
        yield


SHAPES = {  # x, w, options
    "LeNet's first": ((17, 1, 28, 28), (6, 1, 5, 5), {}),
    "LeNet's second": ((16, 6, 12, 12), (16, 6, 5, 5), {}),
    "odd map": ((3, 3, 9, 10), (5, 3, 3, 3), {"padding": (1, 0)}),
    "overlapping windows": ((5, 2, 11, 8), (7, 2, 3, 2), {"pool_kernel_size": 3, "pool_stride": 2, "pool_padding": 1}),
    "gaps between windows": ((4, 4, 12, 12), (4, 2, 3, 3), {"groups": 2, "pool_kernel_size": (1, 2), "pool_stride": 3}),
    "ceil mode": ((33, 2, 8, 9), (3, 2, 2, 2), {"pool_stride": 2, "pool_ceil_mode": True}),
    "strided and dilated": (
        (2, 2, 14, 13),
        (4, 2, 3, 2),
        {"stride": (2, 1), "dilation": (1, 2), "pool_stride": (1, 2)},
    ),
    "window of the whole map": ((3, 2, 6, 6), (4, 2, 3, 3), {"pool_kernel_size": 4}),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_match_stock_judged_by_float64(case, shape, last):
    (n, *image), w, options = shape
    x = (min(n, 2) if case.isa == "triton" else n, *image)  # the interpreter is slow; no lanes to fill
    leaf = torch.randn(*x, dtype=torch.float64).to(case.dtype)
    leaf = (leaf.to(memory_format=LAST) if last else leaf).requires_grad_()
    leaves = leaf, case.leaf(*w, scale=0.3), case.leaf(w[0])
    pair = bound(ours, options), bound(stock, options)
    if case.dtype in (torch.float64, torch.float32):
        case.assert_same_as_stock(*pair, leaves)
    else:  # a rounding may move the maximum, and the gradient with it: values only
        case.assert_close(pair[0](*leaves), pair[1](*leaves), pair[1](*(t.detach().double() for t in leaves)))
    assert pair[0](*leaves).stride() == pair[1](*leaves).stride()


def test_gradients_in_sixteen_bits_go_to_the_maximum(case):
    """Integers: all sums are exact, and float64 has the same maxima, ties included."""
    x, w = (torch.randint(-2, 3, s).to(case.dtype).requires_grad_() for s in ((18, 2, 8, 8), (5, 2, 3, 3)))
    dy = torch.randint(-2, 3, (18, 5, 3, 3)).double()
    exact = [t.detach().double().requires_grad_() for t in (x, w)]
    want = torch.autograd.grad(stock(*exact), exact, dy)
    got = torch.autograd.grad(ours(x, w), (x, w), dy.to(case.dtype))
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b.to(case.dtype))


@given(
    n=st.integers(1, 18), c=st.integers(1, 3), k=st.integers(1, 7),
    image=st.tuples(st.integers(3, 9), st.integers(3, 9)), window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 1), last=st.booleans(),
    pool=st.tuples(st.integers(1, 4), st.integers(1, 4)), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pool_padding=st.integers(0, 2), ceil=st.booleans(), dilation=st.sampled_from([1, 1, 1, 2]),
)  # fmt: skip
def test_any_options(n, c, k, image, window, padding, last, pool, stride, pool_padding, ceil, dilation):
    torch.manual_seed(n * 97 + c * 31 + k)
    x = torch.randn(n, c, *image, dtype=torch.float64)
    leaves = [x.to(memory_format=LAST) if last else x, torch.randn(k, c, *window, dtype=torch.float64)]
    leaves = [t.requires_grad_() for t in leaves]
    options = {"padding": padding, "pool_kernel_size": pool, "pool_stride": stride, "pool_padding": pool_padding}
    options |= {"pool_ceil_mode": ceil, "pool_dilation": dilation}
    try:
        want = stock(*leaves, **options)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            ours(*leaves, **options)
        return
    y = ours(*leaves, **options)
    torch.testing.assert_close(y, want)
    dy = torch.randn_like(want)
    torch.testing.assert_close(torch.autograd.grad(y, leaves, dy), torch.autograd.grad(want, leaves, dy))


@pytest.mark.parametrize("n", [0, 1, 3, 16, 17, 33])
def test_any_batch(isa, n):
    leaves = [torch.randn(*s, requires_grad=True) for s in ((n, 2, 6, 6), (3, 2, 3, 3), (3,))]
    results = [(y, *torch.autograd.grad(y.sum(), leaves)) for y in (ours(*leaves), stock(*leaves))]
    torch.testing.assert_close(*results)


def test_one_image_without_batch_dimension(isa):
    x, w = torch.randn(2, 6, 6), torch.randn(3, 2, 3, 3)
    torch.testing.assert_close(ours(x, w), stock(x, w))


def test_nan_and_infinity_propagate(case, cudnn):
    cudnn(enabled=False)  # some of its algorithms spread a NaN further
    x = case.tensor(17, 2, 7, 7)
    x[0, 0, 0, 0], x[1, 1, 3, 3], x[2, 0, 5, 5] = float("nan"), float("inf"), float("-inf")
    x[3, 0, 2:4] = float("nan")
    x = x.requires_grad_()
    w = torch.ones(3, 2, 3, 3, dtype=case.dtype)
    results = []
    for function in (ours, stock):
        y = function(x, w)
        results.append((y, torch.autograd.grad(y, x, torch.ones_like(y))[0][:4]))
    torch.testing.assert_close(results[0][0], results[1][0], equal_nan=True)
    torch.testing.assert_close(results[0][1].isnan(), results[1][1].isnan())


def test_any_gradient_layout(isa):
    leaves = [torch.randn(*s, requires_grad=True) for s in ((5, 2, 8, 8), (4, 2, 3, 3))]
    for dy in (
        torch.ones(()).expand(5, 4, 3, 3),
        torch.randn(5, 4, 3, 6)[..., ::2],
        torch.randn(4, 5, 3, 3).transpose(0, 1),
    ):
        results = [torch.autograd.grad(f(*leaves), leaves, dy) for f in (ours, stock)]
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_offsets_are_those_of_max_pool2d_and_dead_where_relu_gives_zero(layout, overload):
    """Backward can then use max_pool2d's own offsets, once those where the result is 0 are marked dead."""
    x, w, b = torch.randn(3, 2, 7, 6).to(memory_format=layout), torch.randn(4, 2, 3, 2), torch.randn(4)
    geometry, pool = ([1, 1], [1, 0], [1, 1], 1), ([2, 2], [2, 2], [0, 0])
    ops = torch.ops.torchext
    y, offsets = getattr(ops.conv2d_relu_max_pool2d, overload)(x, w, b, *geometry, *pool, False)
    z = stock_F.conv2d(x, w, b, padding=(1, 0)).relu()
    pooled, unaware = ops.max_pool2d.default(z, layout is LAST, True, *y.shape[2:], 2, 2, 2, 2, 0, 0, 1, 1)
    assert (y == 0).any() and not torch.equal(offsets, unaware)
    torch.testing.assert_close(y, pooled)
    assert torch.equal(offsets, unaware.masked_fill(y == 0, 255))


def test_only_our_kernel_ran(case, trace):
    leaves = [case.leaf(5, 2, 6, 6), case.leaf(3, 2, 3, 3), case.leaf(3)]
    with trace() as ops:
        ours(*leaves).sum().backward()
    name = "torchext.conv2d_relu_max_pool2d"
    assert f"{name}.{case.overload}" in ops and f"{name}_backward.{case.overload}" in ops
    assert not any(op.startswith(("aten.conv", "aten.relu", "aten.threshold", "aten.max_pool")) for op in ops)


def test_results_do_not_depend_on_the_number_of_threads(threads):
    leaves = [torch.randn(*s, requires_grad=True) for s in ((300, 3, 20, 20), (6, 3, 5, 5), (6,))]
    results = []
    for count in (1, 2):
        threads(count)
        y = ours(*leaves)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    assert all(torch.equal(one, two) for one, two in zip(*results))


def test_autocast_goes_to_stock():
    x, w = torch.randn(5, 2, 6, 6), torch.randn(3, 2, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(x, w), stock(x, w))


def test_what_the_direct_kernel_does_not_serve_is_composed(trace):
    x, w = torch.randn(2, 64, 30, 30), torch.randn(64, 64, 7, 7) * 0.02
    with torchext.backend("auto"), torchext.record_routes() as routes, trace() as ops:
        y = ours(x, w)
    torch.testing.assert_close(y, stock(x, w))
    assert [(r.op, r.backend) for r in routes] == [("conv2d_relu", "stock"), ("max_pool2d", "native")]
    assert "torchext.conv2d_relu_max_pool2d.default" not in ops and "torchext.max_pool2d.default" in ops


BAD = {
    "kernel too large": ((torch.zeros(2, 3, 5, 5), torch.zeros(4, 3, 7, 7)), {}),
    "channels differ": ((torch.zeros(2, 3, 5, 5), torch.zeros(4, 2, 3, 3)), {}),
    "window too large": ((torch.zeros(2, 3, 5, 5), torch.zeros(4, 3, 3, 3)), {"pool_kernel_size": 4}),
    "window 0": ((torch.zeros(2, 3, 5, 5), torch.zeros(4, 3, 3, 3)), {"pool_kernel_size": 0}),
    "pool_padding": ((torch.zeros(2, 3, 5, 5), torch.zeros(4, 3, 3, 3)), {"pool_padding": 2}),
    "pool_stride": ((torch.zeros(2, 3, 5, 5), torch.zeros(4, 3, 3, 3)), {"pool_stride": (1, 2, 3)}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_raises_what_stock_raises_and_names_the_arguments(bad):
    arguments, options = bad
    with pytest.raises(Exception) as theirs:
        stock(*arguments, **options)
    with pytest.raises(theirs.type, match=r"expected input .* pooling .*; got input .* pool_kernel_size") as error:
        ours(*arguments, **options)
    assert type(error.value) is type(theirs.value)


@pytest.mark.parametrize("options", [{}, {"padding": 2, "padding_mode": "reflect", "stride": 2}])
@pytest.mark.parametrize(
    "pool", [{"pool_kernel_size": 2}, {"pool_kernel_size": 3, "pool_stride": 2, "pool_padding": 1}]
)
def test_the_module_is_a_drop_in(tmp_path, options, pool):
    x = torch.randn(17, 2, 12, 12)
    fused, conv = nn.ConvReLUMaxPool2d(2, 4, 3, **options, **pool), stock_nn.Conv2d(2, 4, 3, **options)
    fused.load_state_dict(conv.state_dict(), strict=True)
    want = stock_F.max_pool2d(conv(x).relu(), **{k.removeprefix("pool_"): v for k, v in pool.items()})
    torch.testing.assert_close(fused(x), want)
    torch.save(fused, tmp_path / "module.pt")
    torch.testing.assert_close(torch.load(tmp_path / "module.pt", weights_only=False)(x), want)
    assert isinstance(fused, stock_nn.Conv2d) and f"pool_kernel_size={pool['pool_kernel_size']}" in repr(fused)
