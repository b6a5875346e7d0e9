"""dropout and alpha_dropout: values and gradients under every option; test_dropout_mask.py has the mask itself."""

import math
from importlib.metadata import version

import pytest
import torch
from torch import library
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import _backend, nn
from torchext.dropout import SMALL
from torchext.nn import functional as F

FUNCTIONS = {"dropout": (F.dropout, stock_F.dropout), "alpha_dropout": (F.alpha_dropout, stock_F.alpha_dropout)}


@pytest.fixture(params=FUNCTIONS)
def pair(request):
    return FUNCTIONS[request.param]


def seed_of(value):
    return torch.tensor(value, dtype=torch.int64)


def alpha(p):
    """scale, shift, fill: Klambauer et al., Self-normalizing neural networks, 2017."""
    limit = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717
    a = (1 - p + limit**2 * p * (1 - p)) ** -0.5
    b = -a * p * limit
    return a, b, a * limit + b


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


def test_nan_infinity_and_signed_zero_come_out_as_in_stock(case, pair):
    if case.isa == "triton" and _backend.triton().INTERPRETED and int(version("triton").split(".")[1]) < 9:
        pytest.skip("this Triton's interpreter takes a constant -0 for 0; compiled, an argument keeps its sign")
    edges = torch.tensor([math.nan, math.inf, -math.inf, -1.0, -0.0, 0.0], dtype=case.dtype)

    def outcomes(function):
        y = function(edges.repeat(200, 1), 0.5, True).double()
        return [sorted({str(v) for v in column.tolist()}) for column in y.T]

    if pair[1] is stock_F.dropout:
        assert outcomes(pair[0]) == outcomes(pair[1])
    assert all(set(a) >= {"nan"} for a in outcomes(pair[0])[:3])


def test_nothing_to_draw_is_stocks_answer(case, pair):
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


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "permuted": lambda t: t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "sliced": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "expanded": lambda t: t[:1].expand(t.shape),
    "misaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
}


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


def fixed(function, **options):
    def call(x):
        torch.manual_seed(5)
        return function(x, 0.4, True, **options)

    return call


def test_gradcheck_and_gradgradcheck(isa, pair):
    for shape in ((5, 4), (2, 3, 4, 2), ()):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for inputs in (x, x.detach().mT.contiguous().mT.requires_grad_() if x.dim() > 1 else x):
            assert torch.autograd.gradcheck(fixed(pair[0]), inputs, check_batched_grad=True)
            assert torch.autograd.gradgradcheck(fixed(pair[0]), inputs)
            assert torch.autograd.gradcheck(lambda x: fixed(pair[0], inplace=True)(x * 1), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype, overload):
    op, in_place = (getattr(getattr(torch.ops.torchext, name), overload) for name in ("dropout", "dropout_"))
    x = torch.randn(4, 3, 5, 5, dtype=dtype)
    for layout in (*LAYOUTS.values(), lambda t: t[:0], lambda t: t[0, 0, 0, 0]):
        library.opcheck(op, (layout(x), seed_of(3), 0.5, 2.0, 0.1, 0.2))
    library.opcheck(in_place, (x, seed_of(3), 0.5, 2.0, 0.0, 0.0))


def test_in_place_overwrites_the_input_and_nothing_else(case, pair):
    ours = pair[0]
    for layout in (lambda t: t, *LAYOUTS.values()):
        x = layout(case.tensor(2, 3, 4, 5)).clone(memory_format=torch.preserve_format)
        want = fixed(ours)(x)
        version = x._version
        assert fixed(ours, inplace=True)(x) is x and torch.equal(x, want) and x._version > version
    base = case.tensor(8, 9)
    view, want = base[:, 2:7], base.clone()
    want[:, 2:7] = fixed(ours)(want[:, 2:7])
    fixed(ours, inplace=True)(view)
    assert torch.equal(base, want)


def test_in_place_is_followed_by_autograd(pair):
    x = torch.randn(6, 6, requires_grad=True)
    want = torch.autograd.grad(fixed(pair[0])(x * 2).square().sum(), x)
    assert torch.equal(torch.autograd.grad(fixed(pair[0], inplace=True)(x * 2).square().sum(), x)[0], want[0])

    def through_a_view(x, inplace):
        whole = x * 2
        if inplace:
            fixed(pair[0], inplace=True)(whole[:3])
            return whole.square().sum()
        return fixed(pair[0])(whole[:3]).square().sum() + whole[3:].square().sum()

    assert torch.equal(*(torch.autograd.grad(through_a_view(x, i), x)[0] for i in (True, False)))
    saved = x.exp()
    y = saved.sum()
    pair[0](saved, 0.5, True, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(), saved.sum().backward()


def test_in_place_refuses_what_stock_refuses_before_a_byte_is_written(pair):
    leaf = torch.ones(4, 4, requires_grad=True)
    for x in (leaf, leaf[1:], leaf.unbind()[0], torch.ones(1, 3).expand(4, 3)):
        before = x.detach().clone()
        for function in pair:
            with pytest.raises(RuntimeError):
                function(x, 0.5, True, inplace=True)
        assert torch.equal(x, before)


@pytest.mark.native
def test_only_the_seed_is_saved(pair, saved_bytes):
    x = torch.randn(500, requires_grad=True)
    assert saved_bytes(lambda x: pair[0](x, 0.5, True), x) == 8
    assert saved_bytes(lambda x: pair[0](x * 1, 0.5, True, True), x) == 8


def test_inputs_and_gradients_are_left_alone_and_backward_repeats(case, pair):
    x, dy = case.leaf(20, 20), case.tensor(20, 20)
    before = [x.detach().clone(), dy.clone()]
    y = pair[0](x, 0.5, True)
    first, second = (torch.autograd.grad(y, x, dy, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and torch.equal(x, before[0]) and torch.equal(dy, before[1])


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


def test_auto_leaves_tiny_training_tensors_to_stock(pair):
    with torchext.backend("auto"), torchext.record_routes() as routes:
        for x in (torch.ones(SMALL - 1, requires_grad=True), torch.ones(SMALL, requires_grad=True), torch.ones(4)):
            pair[0](x, 0.5, True)
    assert [r.backend for r in routes] == ["stock", "native", "native"]


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


@pytest.mark.parametrize("randomness", ["different", "same", "error"])
def test_vmap_obeys_its_randomness(pair, randomness):
    call = torch.vmap(lambda x: pair[0](x, 0.5, True), randomness=randomness)
    if randomness == "error":
        with pytest.raises(RuntimeError, match="randomness"):
            call(torch.ones(6, 100))
        return
    kept = call(torch.ones(6, 100)) > 0
    assert bool((kept == kept[0]).all()) == (randomness == "same")
    gradients = torch.vmap(torch.func.grad(lambda x: pair[0](x, 0.5, True).sum()), randomness=randomness)
    assert 200 < (gradients(torch.ones(6, 100)) > 0).sum() < 400


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_compiles_whole_and_every_call_draws_its_own_mask(dynamic, backend, trace):
    torch._dynamo.reset()

    def model(x, p):
        a, b = F.dropout(x, p), F.dropout(x, p)
        return a, b, F.dropout(x * 1, p, inplace=True), F.alpha_dropout(x, p, True)

    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend=backend)
    for shape, p in (((40, 50), 0.5), ((30, 50), 0.3), ((2, 3, 16, 20), 0.5)):
        x = torch.ones(shape)
        if len(shape) == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        torch.manual_seed(2)
        first, second = compiled(x, p), compiled(x, p)
        torch.manual_seed(2)
        masks = [y.detach() > 0.5 for y in (*first, *second)]
        assert all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])
        assert all(torch.equal(y, again) for y, again in zip(first, compiled(x, p)))
        scales = (*[1 / (1 - p)] * 3, alpha(p)[0])
        (dx,) = torch.autograd.grad(first, x, [torch.full(shape, 5.0**i) for i in range(4)])
        torch.testing.assert_close(dx, sum(mask * scale * 5**i for i, (mask, scale) in enumerate(zip(masks, scales))))
        for y, mask in zip(first, masks):
            assert y.stride() == x.stride() and abs(float(mask.double().mean()) - (1 - p)) < 0.06


@pytest.mark.parametrize("cls", [nn.Dropout, nn.AlphaDropout])
def test_the_module_is_stocks_to_everything_that_handles_modules(cls, assert_drop_in):
    base = getattr(stock_nn, cls.__name__)
    assert repr(cls(0.25, inplace=True)) == repr(base(0.25, inplace=True))
    assert_drop_in(cls(0.25).eval(), base(0.25).eval(), torch.randn(3, 4), exact=True)
    module, x = cls(0.25), torch.ones(40, 40)
    with torchext.record_routes() as routes:
        assert not torch.equal(module(x), x) and module.eval()(x) is x
    assert [r.backend for r in routes] == ["native", "stock"]
