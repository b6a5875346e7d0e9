"""dropout1d, 2d, 3d and feature_alpha_dropout: whole channels, one draw each, and stock's result for every rank."""

import warnings

import pytest
import torch
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import nn
from torchext.nn import functional as F

# name: (ours, stock, shapes whose channels are drawn by us, dimensions that have a draw of their own)
FORMS = {
    "dropout1d": (F.dropout1d, stock_F.dropout1d, {(30, 20, 5): 2, (400, 5): 1}),
    "dropout2d": (F.dropout2d, stock_F.dropout2d, {(30, 20, 3, 4): 2}),
    "dropout3d": (F.dropout3d, stock_F.dropout3d, {(30, 20, 3, 2, 2): 2, (400, 3, 2, 2): 1}),
    "feature_alpha_dropout": (
        *(F.feature_alpha_dropout, stock_F.feature_alpha_dropout),
        {(30, 20): 2, (30, 20, 5): 2, (30, 20, 3, 4): 2, (30, 20, 3, 2, 2): 2},
    ),
}
CASES = [(name, shape) for name, form in FORMS.items() for shape in form[2]]


@pytest.fixture(autouse=True)
def native():
    with torchext.backend("native"):
        yield


def coefficients(name, p):
    """What a kept 1 and a dropped 1 become in stock."""
    stock = FORMS[name][1]
    shape = next(iter(FORMS[name][2]))
    values = stock(torch.ones(shape, dtype=torch.float64), p, True).unique().tolist()
    return max(values), min(values)


@pytest.mark.parametrize("name, shape", CASES)
@pytest.mark.parametrize("inplace", [False, True])
def test_each_channel_is_kept_or_dropped_whole(case, name, shape, inplace, trace):
    ours, _, ranks = FORMS[name]
    kept, dropped = (torch.tensor(v, dtype=case.dtype) for v in coefficients(name, 0.3))
    x = torch.ones(shape, dtype=case.dtype)
    with trace() as ops:
        y = ours(x, 0.3, True, inplace)
    assert (y is x) == inplace and any(op.startswith("torchext.dropout") for op in ops)
    channels = y.flatten(ranks[shape]).double() if len(shape) > ranks[shape] else y.double().unsqueeze(-1)
    assert torch.equal(channels, channels[..., :1].expand(channels.shape))
    mask = (channels[..., 0] - kept).abs() < (channels[..., 0] - dropped).abs()
    torch.testing.assert_close(channels[..., 0].to(case.dtype), torch.where(mask, kept, dropped))
    assert abs(float(mask.double().mean()) - 0.7) < 5 * (0.21 / mask.numel()) ** 0.5


@pytest.mark.parametrize("name, shape", CASES)
def test_backward_uses_the_same_mask_and_saves_one_value_a_channel(name, shape, saved_bytes):
    ours, _, ranks = FORMS[name]
    x = torch.rand(shape, requires_grad=True)
    y = ours(x, 0.3, True)
    (dx,) = torch.autograd.grad(y.sum(), x)
    offset = (y - x * dx).detach()
    torch.testing.assert_close(offset, torch.where(dx != 0, offset.max(), offset.min()))
    assert saved_bytes(lambda x: ours(x, 0.3, True), x) == 4 * torch.Size(shape[: ranks[shape]]).numel()


@pytest.mark.parametrize("name, shape", CASES)
def test_gradients_of_both_orders_and_in_place(name, shape):
    shape = tuple(min(s, 3) for s in shape)

    def call(x, inplace=False):
        torch.manual_seed(0)
        return FORMS[name][0](x * 1 if inplace else x, 0.4, True, inplace)

    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, x) and torch.autograd.gradgradcheck(call, x)
    assert torch.autograd.gradcheck(lambda x: call(x, True), x)
    assert torch.equal(call(x), call(x, True))
    with pytest.raises(RuntimeError, match="leaf"):
        FORMS[name][0](x, 0.4, True, True)


def outcome(function, x):
    """The result's shape and strides, or the exception's type; and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            y = function(x, 0.5, True)
            result = y.shape, y.stride()
        except Exception as error:
            result = type(error)
    return result, [(w.category, str(w.message)) for w in caught]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("rank", range(7))
def test_every_rank_gets_stocks_result_error_or_warning(name, rank):
    for shape in ((3,) * rank, (0,) * rank, (2, 0, 3, 1, 2, 2)[:rank]):
        assert outcome(FORMS[name][0], torch.ones(shape)) == outcome(FORMS[name][1], torch.ones(shape))
    if rank == 4:
        x = torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
        assert outcome(FORMS[name][0], x) == outcome(FORMS[name][1], x)
        assert outcome(FORMS[name][0], x[..., 1:]) == outcome(FORMS[name][1], x[..., 1:])


@pytest.mark.parametrize("name, shape", CASES)
def test_without_anything_to_draw_the_result_matches_stock(name, shape):
    ours, stock, _ = FORMS[name]
    x = torch.ones(shape)
    assert torch.equal(ours(x, 0.5, False), x) and torch.equal(ours(x, 0.0, True), x)
    assert torch.equal(ours(x, 1.0, True), stock(x, 1.0, True))
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
            ours(x, p, True)


def test_nan_in_a_dropped_channel_stays_as_in_stock():
    assert F.dropout2d(torch.full((30, 20, 2, 2), torch.nan)).isnan().all()


@pytest.mark.parametrize("name, shape", CASES)
def test_vmap_obeys_its_randomness(name, shape):
    call = torch.vmap(lambda x: FORMS[name][0](x, 0.5, True), randomness="different")
    first, second = call(torch.ones(2, *shape))
    assert first.shape == shape and not torch.equal(first, second)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_compiles_whole_and_every_call_draws_its_own_mask(backend):
    torch._dynamo.reset()

    def model(x):
        return F.dropout2d(x), F.dropout2d(x), F.feature_alpha_dropout(x, 0.5, True)

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.ones(8, 32, 3, 3, requires_grad=True)
    results = (*compiled(x), *compiled(x))
    masks = [y.detach() > 0.5 for y in results]
    assert all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])
    (dx,) = torch.autograd.grad(results[0].sum(), x)
    assert torch.equal(dx, results[0])


MODULES = [nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout]


@pytest.mark.parametrize("cls", MODULES)
def test_the_module_is_a_drop_in(cls, assert_drop_in):
    base = getattr(stock_nn, cls.__name__)
    x = torch.ones(30, 20, *[2] * {"1d": 1, "2d": 2, "3d": 3}.get(cls.__name__[-2:], 2))
    assert repr(cls(0.25, inplace=True)) == repr(base(0.25, inplace=True))
    assert_drop_in(cls(0.25).eval(), base(0.25).eval(), x, exact=True)
    with torchext.record_routes() as routes:
        assert not torch.equal(cls(0.25)(x), x)
    assert [r.backend for r in routes] == ["native"]
