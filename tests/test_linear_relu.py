"""linear and linear_relu against stock and float64: values and gradients, errors, routes, modules."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear_relu_cases import FUNCTIONS
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import nn
from torchext._table import FAMILIES, STOCK
from torchext.nn import functional as F


@pytest.fixture(params=FUNCTIONS)
def pair(request):
    return FUNCTIONS[request.param]


# From 2,097,152 multiply-adds on the library serves, except on AVX2: (160, 130, 110) is beyond.
@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (7, 5, 3), (13, 33, 65), (64, 256, 120), (31, 1, 40), (160, 130, 110)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_match_stock_judged_by_float64(case, pair, m, k, n, bias):
    inputs = [case.leaf(m, k), case.leaf(n, k), *([case.leaf(n)] if bias else [])]
    case.assert_same_as_stock(*pair, inputs, kink=stock_F.linear)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 4), (0,), (2, 0)])
def test_any_leading_dimensions(case, pair, leading):
    inputs = [case.leaf(*leading, 6), case.leaf(4, 6), case.leaf(4)]
    case.assert_same_as_stock(*pair, inputs, kink=stock_F.linear)
    assert pair[0](*inputs).stride() == pair[1](*inputs).stride()


@pytest.mark.parametrize("m, k, n", [(0, 3, 4), (5, 0, 4), (5, 3, 0), (0, 0, 0)])
def test_empty_sizes(case, pair, m, k, n):
    case.assert_same_as_stock(*pair, [case.leaf(m, k), case.leaf(n, k), case.leaf(n)], kink=stock_F.linear)


LAYOUTS = {
    "transposed": lambda t: t.t().contiguous().t(),
    "sliced": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "every other row": lambda t: t.repeat_interleave(2, 0)[::2],
    "misaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_of_inputs_and_gradient(case, pair, layout):
    x, w = (layout(case.tensor(9, 21)).detach().requires_grad_() for _ in range(2))
    inputs = [x, w, case.leaf(9)]
    case.assert_same_as_stock(*pair, inputs, kink=stock_F.linear)
    results = []
    for function in pair:
        y = function(*inputs)
        results.append(torch.autograd.grad(y, inputs, layout(torch.ones_like(y))))
    for ours, stock in zip(*results):
        torch.testing.assert_close(ours, stock)
        assert ours.stride() == stock.stride() or ours.is_contiguous()


@given(
    m=st.integers(0, 40), k=st.integers(0, 70), n=st.integers(0, 70), bias=st.booleans(), relu=st.booleans(),
    grads=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)  # fmt: skip
def test_any_shape_and_any_subset_of_gradients(m, k, n, bias, relu, grads):
    torch.manual_seed(m * 5041 + k * 71 + n)
    ours, stock = FUNCTIONS["linear_relu" if relu else "linear"]
    inputs = [torch.randn(m, k), torch.randn(n, k), *([torch.randn(n)] if bias else [])]
    inputs = [t.requires_grad_(g) for t, g in zip(inputs, grads)]
    y, want = ours(*inputs), stock(*inputs)
    torch.testing.assert_close(y, want)
    assert y.requires_grad == want.requires_grad
    wanted = [t for t in inputs if t.requires_grad]
    if wanted:
        dy = torch.randn_like(y)
        torch.testing.assert_close(torch.autograd.grad(y, wanted, dy), torch.autograd.grad(want, wanted, dy))


@pytest.mark.parametrize("m, k, n", [(4, 5, 3), (160, 130, 110)])
def test_nan_and_infinity_propagate(case, pair, m, k, n):
    x = case.tensor(m, k)
    x[0, 0], x[1, 1], x[2, 2] = float("nan"), float("inf"), float("-inf")
    w, b = torch.ones(n, k, dtype=case.dtype), torch.zeros(n, dtype=case.dtype)
    results = []
    for function in pair:
        inputs = [t.clone().requires_grad_() for t in (x, w, b)]
        y = function(*inputs)
        results.append((y, *torch.autograd.grad(y, inputs, torch.ones_like(y))))
    for ours, stock in zip(*results):
        assert torch.equal(ours.isnan(), stock.isnan()) and torch.equal(ours.isinf(), stock.isinf())


@pytest.mark.native
def test_our_kernel_ran_forward_and_backward(case, pair, trace):
    inputs = [case.leaf(5, 4), case.leaf(3, 4), case.leaf(3)]
    with trace() as ops:
        pair[0](*inputs).sum().backward()
    name = "linear_relu" if pair is FUNCTIONS["linear_relu"] else "linear"
    assert f"torchext.{name}.{case.overload}" in ops and f"torchext.linear_backward.{case.overload}" in ops
    assert not any(op.startswith(("aten.addmm", "aten.relu", "aten.threshold_backward")) for op in ops)


def test_results_do_not_depend_on_the_number_of_threads(threads, pair):
    inputs = [torch.randn(*s, requires_grad=True) for s in ((2000, 30), (40, 30), (40,))]
    results = []
    for count in (1, 2):
        threads(count)
        y = pair[0](*inputs)
        results.append((y, *torch.autograd.grad(y.sum(), inputs)))
    assert all(torch.equal(one, two) for one, two in zip(*results))


def test_autocast_goes_to_stock(pair):
    x, w, b = torch.randn(5, 4), torch.randn(3, 4), torch.randn(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, stock = pair[0](x, w, b), pair[1](x, w, b)
    assert ours.dtype == stock.dtype == torch.bfloat16
    assert torch.equal(ours, stock)


BAD = {
    "k differs": lambda: (torch.randn(2, 3), torch.randn(4, 5), None),
    "bias too long": lambda: (torch.randn(2, 3), torch.randn(4, 3), torch.randn(5)),
    "dtypes differ": lambda: (torch.randn(2, 3), torch.randn(4, 3).double(), None),
    "0-d input": lambda: (torch.randn(()), torch.randn(4, 3), None),
    "3-d weight": lambda: (torch.randn(2, 3), torch.randn(4, 3, 1), None),
    "not a tensor": lambda: ([1.0], torch.randn(4, 3), None),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_raises_what_stock_raises_and_names_the_arguments(pair, bad):
    arguments = bad()
    with pytest.raises(Exception) as stock:
        pair[1](*arguments)
    with pytest.raises(stock.type, match=r"expected input .* weight .*; got input .* weight .*") as ours:
        pair[0](*arguments)
    assert type(ours.value) is type(stock.value)


@pytest.mark.native
def test_routes_are_recorded():
    x, w = torch.randn(2, 3), torch.randn(4, 3)
    with torchext.record_routes() as routes:
        F.linear(x, w)
        with torchext.backend("stock"):
            F.linear_relu(x, w)
        F.linear(x.to(torch.complex64), w.to(torch.complex64))
    assert [(r.op, r.backend) for r in routes] == [("linear", "native"), ("linear_relu", "stock"), ("linear", "stock")]
    assert "complex64" in routes[2].why


def test_a_product_that_the_table_leaves_to_stock_is_refused_as_any():
    with FAMILIES["linear_relu", "cpu"].forced(STOCK), torchext.backend("auto"), torchext.record_routes() as routes:
        F.linear(torch.randn(2, 3), torch.randn(4, 3))
        with pytest.raises(RuntimeError, match=r"expected input .* weight"):
            F.linear(torch.randn(2, 3), torch.randn(3, 4))
    assert [r.backend for r in routes] == ["stock", "stock"] and "measured faster" in routes[0].why


@pytest.mark.parametrize("bias", [True, False])
def test_modules_are_drop_ins(assert_drop_in, bias):
    x = torch.randn(7, 5)
    assert_drop_in(nn.Linear(5, 3, bias), stock_nn.Linear(5, 3, bias), x)
    assert repr(nn.Linear(5, 3, bias)) == repr(stock_nn.Linear(5, 3, bias))
    fused, linear = nn.LinearReLU(5, 3, bias), stock_nn.Linear(5, 3, bias)
    fused.load_state_dict(linear.state_dict(), strict=True)
    torch.testing.assert_close(fused(x), linear(x).relu())
    torch.testing.assert_close(copy.deepcopy(fused)(x), linear(x).relu())


def test_hooks_and_parametrizations_work():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.LinearReLU(5, 3))
    seen = []
    layer.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    layer(torch.randn(2, 5)).sum().backward()
    assert seen == [(2, 3)] and layer.parametrizations.weight.original0.grad is not None
