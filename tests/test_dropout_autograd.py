"""dropout and alpha_dropout in autograd, in place, under the compiler and the transforms."""

import pytest
import torch
from dropout_cases import FUNCTIONS, LAYOUTS, alpha, fixed, seed_of
from torch import library

from torchext.nn import functional as F


@pytest.fixture(params=FUNCTIONS)
def pair(request):
    return FUNCTIONS[request.param]


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


def test_backward_repeats_and_modifies_neither_input_nor_gradient(case, pair):
    x, dy = case.leaf(20, 20), case.tensor(20, 20)
    before = [x.detach().clone(), dy.clone()]
    y = pair[0](x, 0.5, True)
    first, second = (torch.autograd.grad(y, x, dy, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and torch.equal(x, before[0]) and torch.equal(dy, before[1])


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
