"""dropout and alpha_dropout: values and gradients under every option; test_dropout_mask.py has the mask itself."""

import math
from importlib.metadata import version

import pytest
import torch
from dropout_cases import FUNCTIONS, LAYOUTS, alpha
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import _backend, nn
from torchext.nn import functional as F


@pytest.fixture(params=FUNCTIONS)
def pair(request):
    return FUNCTIONS[request.param]


@pytest.mark.native
@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.5, 0.9])
def test_kept_elements_are_scaled_and_dropped_ones_zero(case, p):
    x = case.leaf(37, 53)
    torch.manual_seed(1)
    y = F.dropout(x, p)
    torch.manual_seed(1)
    kept = F.dropout(torch.ones_like(x), p) != 0
    assert torch.equal(y, torch.where(kept, x * (1 / (1 - p)), x * 0))
    dy = case.tensor(37, 53)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(dx, torch.where(kept, dy * (1 / (1 - p)), dy * 0))


@pytest.mark.native
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_alpha_dropout_is_the_published_affine_map(case, p):
    x = case.leaf(37, 53)
    scale, shift, fill = alpha(p)
    torch.manual_seed(1)
    y = F.alpha_dropout(x, p, training=True)
    torch.manual_seed(1)
    kept = F.dropout(torch.ones_like(x), p) != 0
    torch.testing.assert_close(y, torch.where(kept, x.double() * scale + shift, fill).to(case.dtype))
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(dx, kept.to(case.dtype) * scale)


def test_alpha_dropout_keeps_mean_and_variance():
    """A million normal numbers: the mean's deviation is 0.001, the variance's below 0.003; five of each are allowed."""
    for p in (0.1, 0.5, 0.8):
        y = F.alpha_dropout(torch.randn(2**20), p, training=True)
        assert abs(y.mean()) < 0.005 and abs(y.var() - 1) < 0.015


def test_nan_infinity_and_signed_zero_match_stock(case, pair):
    if case.isa == "triton" and _backend.triton().INTERPRETED and int(version("triton").split(".")[1]) < 9:
        pytest.skip("this Triton's interpreter reads a constant -0 as 0; compiled, an argument keeps its sign")
    edges = torch.tensor([math.nan, math.inf, -math.inf, -1.0, -0.0, 0.0], dtype=case.dtype)

    def outcomes(function):
        y = function(edges.repeat(200, 1), 0.5, True).double()
        return [sorted({str(v) for v in column.tolist()}) for column in y.T]

    if pair[1] is stock_F.dropout:
        assert outcomes(pair[0]) == outcomes(pair[1])
    assert all(set(a) >= {"nan"} for a in outcomes(pair[0])[:3])


def test_without_anything_to_draw_the_result_matches_stock(case, pair):
    ours, stock = pair
    x = case.leaf(3, 4)
    assert ours(x, 0.5, False) is x and ours(x, 0.0, True) is x and ours(x, 0, True) is x
    empty = case.leaf(0, 3)
    assert ours(empty, 0.5, True) is empty
    bad = torch.tensor([math.nan, math.inf, 1.0, -1.0], dtype=case.dtype)
    torch.testing.assert_close(ours(bad, 1.0, True), stock(bad, 1.0, True), equal_nan=True)
    assert torch.equal(ours(x, 1.0, True), x * 0)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.inf])
@pytest.mark.parametrize("training", [True, False])
def test_a_probability_outside_0_to_1_is_a_value_error(pair, p, training):
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        pair[0](torch.ones(3), p, training)
    for cls in (nn.Dropout, nn.AlphaDropout):
        with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
            cls(p)


@pytest.mark.parametrize("layout_dy", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_forward_and_backward_use_one_mask_in_any_layout(isa, pair, layout, layout_dy):
    x = layout(torch.rand(2, 3, 4, 5) + 1).detach().requires_grad_()
    y = pair[0](x, 0.5, True)
    assert y.stride() == pair[1](x, 0.5, True).stride()
    kept = y > 0
    assert 20 < kept.sum() < 100
    (dx,) = torch.autograd.grad(y, x, layout_dy(torch.ones(2, 3, 4, 5)), retain_graph=True)
    assert torch.equal(dx != 0, kept)
    (again,) = torch.autograd.grad(y, x, layout_dy(torch.ones(2, 3, 4, 5)), create_graph=True)
    assert torch.equal(again, dx)


@pytest.mark.native
def test_our_kernel_ran_forward_and_backward(case, pair, trace):
    x = case.leaf(5, 4)
    with trace() as ops:
        pair[0](x, 0.5, True).backward(torch.ones_like(x))
    assert ops.count(f"torchext.dropout.{case.overload}") == 2
    assert not any(op.startswith(("aten.bernoulli", "aten.mul")) for op in ops)
    with trace() as ops:
        pair[0](torch.ones(5), 0.5, True, inplace=True)
    assert ops.count(f"torchext.dropout_.{case.overload}") == 1


@pytest.mark.parametrize(
    "x",
    [torch.ones(4, dtype=torch.complex64), torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])],
    ids=["complex", "nested"],
)
def test_what_only_stock_takes_goes_to_stock(pair, x):
    with torchext.record_routes() as routes:
        try:
            want = type(pair[1](x, 0.5, True))
        except (RuntimeError, NotImplementedError) as error:
            with pytest.raises(type(error)):
                pair[0](x, 0.5, True)
        else:
            assert type(pair[0](x, 0.5, True)) is want
    assert all(r.backend == "stock" for r in routes)


@pytest.mark.parametrize("cls", [nn.Dropout, nn.AlphaDropout])
def test_the_module_is_a_drop_in(cls, assert_drop_in):
    base = getattr(stock_nn, cls.__name__)
    assert repr(cls(0.25, inplace=True)) == repr(base(0.25, inplace=True))
    assert_drop_in(cls(0.25).eval(), base(0.25).eval(), torch.randn(3, 4), exact=True)
    module, x = cls(0.25), torch.ones(40, 40)
    with torchext.record_routes() as routes:
        assert not torch.equal(module(x), x) and module.eval()(x) is x
    assert [r.backend for r in routes] == ["native", "stock"]
