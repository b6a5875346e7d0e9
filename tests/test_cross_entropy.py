"""cross_entropy's values and gradients, judged by float64; layouts, options and the edges of the numbers."""

import itertools
import math

import pytest
import torch
from cross_entropy_cases import REDUCTIONS, both, class_sizes, indices, probabilities
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as stock_F

from torchext.nn import functional as F

# Lanes are positions up to 32 classes, classes from 33 on. Tiles are four vectors wide from 32 adjacent positions on.
ROWS = [(5,), (1, 2), (7, 2), (33, 10), (20, 32), (20, 33), (9, 65), (5, 70), (3, 1000)]
PLANES = [(2, 3, 5), (2, 7, 3, 3), (1, 19, 9, 11), (2, 70, 1, 33), (2, 3, 2, 3, 4), (2, 300, 3)]
BIG = [(1, 32000), (2, 5000), (1030, 3), (3000, 2)]


@pytest.mark.parametrize("shape", ROWS + PLANES + BIG, ids=str)
def test_class_indices_match_stock_judged_by_float64(case, shape):
    for reduction in ("none", "mean"):
        case.assert_same_as_stock(*both(indices(shape), reduction=reduction), [case.leaf(*shape, scale=3.0)])


@pytest.mark.parametrize("shape", [(5,), (33, 10), (9, 65), (1, 19, 3, 11)], ids=str)
@pytest.mark.parametrize("weighted, smoothing", [(True, 0.0), (False, 0.1), (True, 0.3)])
@pytest.mark.parametrize("probable", [False, True])
def test_weights_smoothing_and_probabilities_match_stock(case, shape, weighted, smoothing, probable):
    target = probabilities(shape, case.dtype) if probable else indices(shape)
    weight = torch.rand(class_sizes(shape)[1]) if weighted else None
    if weighted:
        weight = weight.to(case.dtype).index_fill(0, torch.tensor([1]), 0.0)
    for reduction in REDUCTIONS:
        pair = both(target, weight, label_smoothing=smoothing, reduction=reduction)
        case.assert_same_as_stock(*pair, [case.leaf(*shape, scale=3.0)])


@pytest.mark.parametrize("classes", [*range(1, 71), 129, 2049, 4100])
def test_every_number_of_classes(isa, classes):
    for n, s in ((19, ()), (2, (5,)), (1, (67,))):
        x = torch.randn(n, classes, *s, requires_grad=True)
        target = indices(x.shape)
        loss, want = F.cross_entropy(x, target), stock_F.cross_entropy(x, target)
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(*(torch.autograd.grad(f, x)[0] for f in (loss, want)), atol=2e-7, rtol=2e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(3, 70), (2, 4, 3)], ids=str)
def test_probabilities_get_their_gradient(case, shape, reduction):
    weight = torch.rand(shape[1])
    target = probabilities(shape, case.dtype).requires_grad_()
    pair = both(target, weight, reduction=reduction, label_smoothing=0.2)
    case.assert_same_as_stock(*pair, [case.leaf(*shape), target])
    x = case.tensor(*shape)
    case.assert_same_as_stock(*(lambda t, f=f: f(x.to(t.dtype), t) for f in pair), [target])
    loss = pair[0](case.leaf(*shape), target)
    assert not torch.autograd.grad(loss.sum(), target)[0].requires_grad


@pytest.mark.parametrize("ignored", [-1, 0, 2, 300])
def test_any_ignore_index(case, ignored):
    for shape, smoothing in zip([(50, 4), (50, 80), (3, 4, 21)], (0.0, 0.1, 0.1)):
        pair = both(indices(shape, ignored), ignore_index=ignored, label_smoothing=smoothing)
        case.assert_same_as_stock(*pair, [case.leaf(*shape)])


@pytest.mark.parametrize("shape", [(3, 4), (3, 80), (2, 4, 5), (20000, 2)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mean_of_nothing_is_nan_and_its_gradient_zero(case, shape, smoothing):
    x = case.leaf(*shape)
    loss = F.cross_entropy(x, torch.full(class_sizes(shape)[0], -100), label_smoothing=smoothing)
    assert loss.isnan() and (torch.autograd.grad(loss, x)[0] == 0).all()


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 80), (2, 5, 4)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_mean_over_targets_of_no_weight_is_nan(case, shape, smoothing):
    positions, classes = class_sizes(shape)
    weight = torch.rand(classes).to(case.dtype).index_fill(0, torch.tensor([1]), 0.0)
    target = torch.ones(positions, dtype=torch.int64)
    for reduction in REDUCTIONS:
        pair = both(target, weight, label_smoothing=smoothing, reduction=reduction)
        case.assert_same_as_stock(*pair, [case.leaf(*shape)])
        assert pair[0](case.tensor(*shape)).isnan().any() == (reduction == "mean")


def test_empty_batches(case):
    for shape, reduction in itertools.product([(0, 3), (0, 3, 4), (2, 3, 0)], REDUCTIONS):
        for target in (indices(shape), probabilities(shape, case.dtype)):
            x = case.leaf(*shape)
            loss, want = (f(x, target, reduction=reduction) for f in (F.cross_entropy, stock_F.cross_entropy))
            torch.testing.assert_close(loss, want, equal_nan=True)
            assert torch.autograd.grad(loss.sum(), x)[0].shape == shape


@pytest.mark.parametrize("classes", [5, 80])
def test_nan_and_infinity_spread_as_in_stock(case, classes):
    x = case.tensor(6, classes)
    inf = math.inf
    x[0, 0], x[1, 1], x[2, 2], x[3], x[4, 4] = math.nan, inf, -inf, -inf, math.nan
    target = torch.tensor([1, 1, 2, 0, -100, 2])
    for t in (target, torch.full_like(target, 3), probabilities(x.shape, case.dtype)):
        for smoothing, layout in itertools.product((0.0, 0.1), (x, x.t().reshape(1, classes, 6))):
            layout = layout.clone().requires_grad_()
            shaped = t.view(1, 6) if t.dim() == 1 else t.t().reshape(1, classes, 6)
            options = {"label_smoothing": smoothing, "reduction": "none"}
            chosen = shaped if layout.dim() == 3 else t
            loss, want = (f(layout, chosen, **options) for f in (F.cross_entropy, stock_F.cross_entropy))
            torch.testing.assert_close(loss, want, equal_nan=True, atol=0.05, rtol=0.05)
            gradients = (torch.autograd.grad(f.sum(), layout)[0] for f in (loss, want))
            torch.testing.assert_close(*gradients, equal_nan=True, atol=0.01, rtol=0.01)


def test_confident_and_huge_logits(case):
    for scale, shape in itertools.product((30.0, 1e4), [(20, 10), (20, 100), (2, 7, 9)]):
        x = case.tensor(*shape, scale=scale)
        target = x.argmax(1)
        case.assert_same_as_stock(*both(target), [x.requires_grad_()])
        case.assert_same_as_stock(*both(target, reduction="none"), [x])


LAYOUTS = {
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "classes last": lambda t: t.transpose(1, -1).contiguous().transpose(1, -1),
    "sliced": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "misaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", [(9, 21), (9, 90), (4, 5, 7)], ids=str)
def test_any_layout_of_logits_targets_and_gradient(case, shape, layout):
    x = layout(case.tensor(*shape)).detach().requires_grad_()
    target = indices((shape[0] * 2, *shape[1:]))[::2]
    for chosen in (target, layout(probabilities(shape, case.dtype))):
        case.assert_same_as_stock(*both(chosen), [x])
        loss, want = (f(x, chosen, reduction="none") for f in (F.cross_entropy, stock_F.cross_entropy))
        loose = {} if case.dtype.itemsize > 2 else {"atol": 0.01, "rtol": 0.05}
        for dloss in (case.tensor(1).expand(loss.shape), case.tensor(*loss.shape, 2)[..., 0]):
            gradients = (torch.autograd.grad(f, x, dloss, retain_graph=True)[0] for f in (loss, want))
            torch.testing.assert_close(*gradients, **loose)


@pytest.mark.native
def test_loss_has_stocks_strides_and_the_gradient_those_of_the_logits():
    for shape, last in itertools.product([(4, 5, 6, 7), (4, 5, 1, 7), (2, 70, 3, 3)], (False, True)):
        x = torch.randn(shape)
        x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
        target = torch.zeros(class_sizes(shape)[0], dtype=torch.int64)
        loss, want = (f(x, target, reduction="none") for f in (F.cross_entropy, stock_F.cross_entropy))
        assert loss.stride() == want.stride()
        assert torch.autograd.grad(loss.sum(), x)[0].stride() == x.stride()


@given(
    n=st.integers(0, 40), c=st.integers(1, 90), s=st.sampled_from([(), (1,), (3,), (2, 9), (40,)]),
    weighted=st.booleans(), smoothing=st.sampled_from([0.0, 0.25, 1.0]), reduction=st.sampled_from(REDUCTIONS),
    probable=st.booleans(), ignored=st.sampled_from([-100, -7, 0]),
)  # fmt: skip
def test_any_shape_and_options(n, c, s, weighted, smoothing, reduction, probable, ignored):
    torch.manual_seed(n * 91 + c)
    x = torch.randn(n, c, *s, requires_grad=True)
    target = probabilities(x.shape) if probable else indices(x.shape, ignored)
    options = {"weight": torch.rand(c) if weighted else None, "label_smoothing": smoothing, "reduction": reduction}
    options |= {} if probable else {"ignore_index": ignored}
    loss, want = F.cross_entropy(x, target, **options), stock_F.cross_entropy(x, target, **options)
    torch.testing.assert_close(loss, want, equal_nan=True)
    dloss = torch.randn_like(loss)
    gradients = (torch.autograd.grad(f, x, dloss)[0] for f in (loss, want))
    torch.testing.assert_close(*gradients, equal_nan=True, atol=1e-5, rtol=1e-4)
