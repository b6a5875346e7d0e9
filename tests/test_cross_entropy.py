"""cross_entropy against stock, float64 and the tools made to check ops."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import nn
from torchext.nn import functional as F

OP, BACKWARD = (getattr(torch.ops.torchext, name) for name in ("cross_entropy", "cross_entropy_backward"))


def class_sizes(shape):
    """The shape of the positions, and the number of classes."""
    return (shape[:1] + shape[2:], shape[1]) if len(shape) > 1 else ((), shape[0])


def indices(shape, ignored=-100):
    positions, classes = class_sizes(shape)
    target = torch.randint(classes, positions)
    if target.numel() > 2:
        target.view(-1)[1] = ignored
    return target


def probabilities(shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).softmax(min(1, len(shape) - 1)).to(dtype)


def both(target, weight=None, **options):
    """Ours and stock's, as functions of the logits; constants follow the logits' dtype."""

    def bound(function):
        def call(x, *moving):
            chosen = moving[0] if moving else target
            chosen = chosen.to(x.dtype) if chosen.is_floating_point() else chosen
            return function(x, chosen, weight=None if weight is None else weight.to(x.dtype), **options)

        return call

    return bound(F.cross_entropy), bound(stock_F.cross_entropy)


# 64 | 65 classes: lanes are positions | classes. Tiles are four vectors wide from 32 positions side by side on.
ROWS = [(5,), (1, 2), (7, 2), (33, 10), (20, 17), (40, 64), (9, 65), (5, 70), (3, 1000)]
PLANES = [(2, 3, 5), (2, 7, 3, 3), (1, 19, 9, 11), (2, 70, 1, 33), (2, 3, 2, 3, 4), (2, 300, 3)]
BIG = [(1, 32000), (2, 5000), (1030, 3), (3000, 2)]
REDUCTIONS = ("none", "mean", "sum")


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
            options = dict(label_smoothing=smoothing, reduction="none")
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


def test_results_have_stocks_strides():
    for shape, last in itertools.product([(4, 5, 6, 7), (4, 5, 1, 7), (2, 70, 3, 3)], (False, True)):
        x = torch.randn(shape)
        x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
        results = []
        for f in (F.cross_entropy, stock_F.cross_entropy):
            loss = f(x, torch.zeros(class_sizes(shape)[0], dtype=torch.int64), reduction="none")
            results.append((loss.stride(), torch.autograd.grad(loss.sum(), x)[0].stride()))
        assert results[0] == results[1]


@given(
    n=st.integers(0, 40), c=st.integers(1, 90), s=st.sampled_from([(), (1,), (3,), (2, 9), (40,)]),
    weighted=st.booleans(), smoothing=st.sampled_from([0.0, 0.25, 1.0]), reduction=st.sampled_from(REDUCTIONS),
    probable=st.booleans(), ignored=st.sampled_from([-100, -7, 0]),
)  # fmt: skip
def test_any_shape_and_options(n, c, s, weighted, smoothing, reduction, probable, ignored):
    torch.manual_seed(n * 91 + c)
    x = torch.randn(n, c, *s, requires_grad=True)
    target = probabilities(x.shape) if probable else indices(x.shape, ignored)
    options = dict(weight=torch.rand(c) if weighted else None, label_smoothing=smoothing, reduction=reduction)
    options |= {} if probable else {"ignore_index": ignored}
    loss, want = F.cross_entropy(x, target, **options), stock_F.cross_entropy(x, target, **options)
    torch.testing.assert_close(loss, want, equal_nan=True)
    dloss = torch.randn_like(loss)
    gradients = (torch.autograd.grad(f, x, dloss)[0] for f in (loss, want))
    torch.testing.assert_close(*gradients, equal_nan=True, atol=1e-5, rtol=1e-4)


# 129 x 129 logits are more than a small loss: backward is then a call of its own.
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck_and_gradgradcheck(isa, reduction):
    weight = torch.rand(4, dtype=torch.float64)
    for shape, smoothing in itertools.product(((5, 4), (2, 4, 3), (4,)), (0.0, 0.1)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        soft = probabilities(shape, torch.float64).requires_grad_()
        options = dict(weight=weight, reduction=reduction, label_smoothing=smoothing)
        for f, inputs in (
            (lambda x, t=indices(shape), o=options: F.cross_entropy(x, t, **o), (x,)),
            (lambda x, t, o=options: F.cross_entropy(x, t, **o), (x, soft)),
        ):
            assert torch.autograd.gradcheck(f, inputs)
            assert torch.autograd.gradgradcheck(f, inputs)


def test_gradcheck_of_many_logits(isa):
    x = torch.randn(129, 129, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.cross_entropy(x, indices(x.shape)), x, fast_mode=True)


def test_logits_as_their_own_target():
    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.cross_entropy(x, x), x)
    assert torch.autograd.gradgradcheck(lambda x: F.cross_entropy(x, x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(dtype):
    for shape in ((5, 6), (6,), (2, 70, 3), (2, 3, 4, 5)):
        x, weight = torch.randn(shape, dtype=dtype), torch.rand(class_sizes(shape)[1], dtype=dtype)
        for target in (indices(shape), probabilities(shape, dtype)):
            for last, (reduction, save) in itertools.product((False, True), ((0, False), (1, False), (2, True))):
                if last and len(shape) == 4:
                    x = x.contiguous(memory_format=torch.channels_last)
                arguments = (x, target, weight, -100, 0.1, reduction)
                torch.library.opcheck(OP.default, (*arguments, save))
                if not save:
                    loss, stats = OP(*arguments, False)
                    torch.library.opcheck(BACKWARD.default, (loss, *arguments[:3], stats, *arguments[3:]))


def test_vmap_and_per_sample_gradients():
    x, target = torch.randn(5, 2, 4), torch.randint(4, (5, 2))
    results = []
    for f in (F.cross_entropy, stock_F.cross_entropy):
        results.append((torch.vmap(f)(x, target), torch.vmap(torch.func.grad(f))(x, target)))
    torch.testing.assert_close(*results)


def test_forward_mode():
    x, tangent, target = torch.randn(5, 4), torch.randn(5, 4), torch.randint(4, (5,))
    results = [torch.func.jvp(lambda x, f=f: f(x, target), (x,), (tangent,)) for f in both(target)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_compiles_whole(dynamic, backend):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, t, w: F.cross_entropy(x, t, w, label_smoothing=0.1, reduction="none"),
        fullgraph=True, dynamic=dynamic, backend=backend,
    )  # fmt: skip
    for shape in ((5, 4), (7, 4), (2, 4, 3), (300, 70)):
        for target in (indices(shape), probabilities(shape)):
            x, weight = torch.randn(shape, requires_grad=True), torch.rand(shape[1])
            loss = compiled(x, target, weight)
            want = stock_F.cross_entropy(x, target, weight, label_smoothing=0.1, reduction="none")
            torch.testing.assert_close(loss, want)
            torch.testing.assert_close(*(torch.autograd.grad(f.mean(), x)[0] for f in (loss, want)))


def test_our_kernel_ran_forward_and_backward(case, trace):
    with trace() as ops:
        F.cross_entropy(case.leaf(500, 40), torch.zeros(500, dtype=torch.int64)).backward()
    assert {"torchext.cross_entropy.default", "torchext.cross_entropy_backward.default"} <= set(ops)
    assert not any("softmax" in op or "nll" in op for op in ops)


def test_a_small_loss_is_one_call(trace):
    with trace() as ops:
        F.cross_entropy(torch.randn(20, 10, requires_grad=True), torch.zeros(20, dtype=torch.int64)).backward()
    assert [op for op in ops if op.startswith("torchext")] == ["torchext.cross_entropy.default"]


@pytest.mark.parametrize("shape", [(3000, 10), (200, 700), (3, 30, 40, 50)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads_and_repeat(threads, shape):
    x, target = torch.randn(shape, requires_grad=True), indices(shape)
    results = []
    for count in (1, 2, 2):
        threads(count)
        loss = F.cross_entropy(x, target)
        results.append((loss, *torch.autograd.grad(loss, x)))
    assert all(torch.equal(one, other) for result in results for one, other in zip(results[0], result))


def test_inputs_and_gradients_are_left_alone(case):
    for shape, reduction in itertools.product(((5, 4), (300, 70)), REDUCTIONS):
        x, target, weight = case.leaf(*shape), indices(shape), case.tensor(shape[1]).abs()
        loss = F.cross_entropy(x, target, weight, reduction=reduction)
        dloss = case.tensor(*loss.shape)
        before = [t.detach().clone() for t in (x, target, weight, dloss)]
        first, second = (torch.autograd.grad(loss, x, dloss, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()
        assert all(torch.equal(a, b) for a, b in zip(before, (x, target, weight, dloss)))


def test_at_most_stocks_bytes_are_saved(saved_bytes):
    for shape in ((50, 40), (3000, 40), (2, 3, 64, 64)):
        x, target = torch.randn(shape, requires_grad=True), indices(shape)
        ours, stock = (saved_bytes(f, x, target) for f in (F.cross_entropy, stock_F.cross_entropy))
        assert ours <= (stock if x.numel() <= 16384 else 2 * target.numel() * 4 + 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_runs_in_float32_as_stock_does(dtype):
    x, target = torch.randn(5, 4).to(dtype).requires_grad_(), torch.randint(4, (5,))
    with torch.autocast("cpu", dtype=torch.bfloat16), torchext.record_routes() as routes:
        ours, stock = F.cross_entropy(x, target), stock_F.cross_entropy(x, target)
    assert ours.dtype == stock.dtype == torch.float32 and routes[0].backend == "native"
    torch.testing.assert_close(ours, stock)
    torch.testing.assert_close(*(torch.autograd.grad(f, x)[0] for f in (ours, stock)))


@pytest.mark.parametrize("shape", [(3, 4), (3, 80), (2, 4, 5), (4,), (5000, 4)], ids=str)
def test_an_index_out_of_range_is_named(shape):
    positions, classes = class_sizes(shape)
    for bad in (classes, -1, 2**40):
        target = torch.zeros(positions, dtype=torch.int64)
        target.view(-1)[-1] = bad
        for grad in (False, True):
            with pytest.raises(IndexError, match=rf"target in \[0, {classes}\).* got {bad} .*Target {bad} is out of bounds"):
                F.cross_entropy(torch.randn(shape, requires_grad=grad), target)


BAD = {
    "batch differs": lambda: (torch.randn(2, 3), torch.zeros(4, dtype=torch.int64), {}),
    "int32 target": lambda: (torch.randn(2, 3), torch.zeros(2, dtype=torch.int32), {}),
    "target [n, 1]": lambda: (torch.randn(2, 3), torch.zeros(2, 1, dtype=torch.int64), {}),
    "integer probabilities": lambda: (torch.randn(2, 3), torch.zeros(2, 3, dtype=torch.int64), {}),
    "weight too long": lambda: (torch.randn(2, 3), torch.zeros(2, dtype=torch.int64), {"weight": torch.ones(4)}),
    "smoothing 2": lambda: (torch.randn(2, 3), torch.zeros(2, dtype=torch.int64), {"label_smoothing": 2.0}),
    "no such reduction": lambda: (torch.randn(2, 3), torch.zeros(2, dtype=torch.int64), {"reduction": "average"}),
    "ignored probabilities": lambda: (torch.randn(2, 3), torch.rand(2, 3), {"ignore_index": 1}),
    "integer input": lambda: (torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), {}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_raises_what_stock_raises_and_names_the_arguments(bad):
    x, target, options = bad()
    with pytest.raises(Exception) as stock:
        stock_F.cross_entropy(x, target, **options)
    with pytest.raises(stock.type, match=r"expected input .* target .*; got input .* target .*"):
        F.cross_entropy(x, target, **options)


def test_what_only_stock_takes_is_stock():
    x, target = torch.randn(2, 3, requires_grad=True), torch.tensor([0, 2])
    with torchext.record_routes() as routes:
        F.cross_entropy(x, target)
        with torchext.backend("stock"):
            F.cross_entropy(x, target)
        F.cross_entropy(x, target.byte())
        F.cross_entropy(x, torch.rand(2, 3).double())
        F.cross_entropy(x, torch.rand(2, 3), torch.rand(3, requires_grad=True)).backward()
    assert [r.backend for r in routes] == ["native", "stock", "stock", "stock", "stock"]
    for legacy in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
        with pytest.warns(UserWarning, match="deprecated"):
            torch.testing.assert_close(F.cross_entropy(x, target, **legacy), stock_F.cross_entropy(x, target, **legacy))


OPTIONS = ({}, {"weight": torch.rand(5)}, {"ignore_index": 1, "reduction": "sum", "label_smoothing": 0.1})


@pytest.mark.parametrize("options", OPTIONS, ids=[",".join(o) or "plain" for o in OPTIONS])
def test_the_module_is_a_drop_in(options):
    x, target = torch.randn(7, 5), torch.randint(5, (7,))
    ours, stock = nn.CrossEntropyLoss(**options), stock_nn.CrossEntropyLoss(**options)
    assert isinstance(ours, stock_nn.CrossEntropyLoss) and repr(ours) == repr(stock)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    ours.load_state_dict(stock.state_dict(), strict=True)
    for twin in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(twin(x, target), stock(x, target))
