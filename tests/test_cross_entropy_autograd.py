"""cross_entropy under autograd, functorch and torch.compile; what it saves, refuses and routes to stock; its module."""

import copy
import itertools
import pickle

import pytest
import torch
from cross_entropy_cases import REDUCTIONS, both, class_sizes, indices, probabilities
from torch import library
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import nn
from torchext.nn import functional as F

OP, BACKWARD = (getattr(torch.ops.torchext, name) for name in ("cross_entropy", "cross_entropy_backward"))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck_and_gradgradcheck(isa, reduction):
    weight = torch.rand(4, dtype=torch.float64)
    for shape, smoothing in (((3, 4), 0.1), ((2, 4, 3), 0.0), ((4,), 0.1)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        soft = probabilities(shape, torch.float64).requires_grad_()
        options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
        hard = indices(shape)
        for f, inputs in (
            (lambda x, t=hard, o=options: F.cross_entropy(x, t, **o), (x,)),
            (lambda x, t, o=options: F.cross_entropy(x, t, **o), (x, soft)),
        ):
            # interpreted kernels are too slow for every column of a Jacobian: a random projection of it
            assert torch.autograd.gradcheck(f, inputs, fast_mode=isa == "triton")
            assert torch.autograd.gradgradcheck(f, inputs, fast_mode=isa == "triton")


@pytest.mark.native
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 4, 3), (2, 4, 3, 2), (2, 4, 0)], ids=str)
@pytest.mark.parametrize("probable", [False, True])
def test_second_derivatives_match_stock_without_its_atomic_sums_of_planes(isa, trace, shape, reduction, probable):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target = probabilities(shape, torch.float64).requires_grad_() if probable else indices(shape)
    wanted = [x, target] if probable else [x]
    options = {"weight": torch.rand(4, dtype=torch.float64), "reduction": reduction, "label_smoothing": 0.1}
    results, ops = [], []
    for f in (F.cross_entropy, stock_F.cross_entropy):
        with trace() as ran:
            first = torch.autograd.grad(f(x, target, **options).square().sum(), wanted, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
        results.append((*first, *second))
        ops.append(ran)
    torch.testing.assert_close(*results, equal_nan=True)
    assert not any("nll_loss2d" in op for op in ops[0])
    assert probable or len(shape) < 3 or any("nll_loss2d" in op for op in ops[1])


def test_gradcheck_of_many_logits(isa):
    x = torch.randn(129, 129, dtype=torch.float64, requires_grad=True)
    target = indices(x.shape)
    assert torch.autograd.gradcheck(lambda x: F.cross_entropy(x, target), x, fast_mode=True)


def test_logits_as_their_own_target():
    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.cross_entropy(x, x), x)
    assert torch.autograd.gradgradcheck(lambda x: F.cross_entropy(x, x), x)


@pytest.mark.parametrize("probable", [False, True])
@pytest.mark.parametrize("shape", [(5, 6), (6,), (2, 70, 3), (2, 3, 4, 5)], ids=str)
def test_opcheck(shape, probable):
    for dtype, reduction in ((torch.float32, 0), (torch.float64, 2), (torch.bfloat16, 1)):
        x, weight = torch.randn(shape, dtype=dtype), torch.rand(class_sizes(shape)[1], dtype=dtype)
        if len(shape) == 4 and dtype != torch.bfloat16:
            x = x.contiguous(memory_format=torch.channels_last)
        arguments = (x, probabilities(shape, dtype) if probable else indices(shape), weight, -100, 0.1, reduction)
        library.opcheck(OP.default, arguments)
        loss, stats = OP(*arguments)
        library.opcheck(BACKWARD.default, (loss, *arguments[:3], stats, *arguments[3:]))


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


@pytest.mark.native
def test_our_kernel_ran_forward_and_backward(case, trace):
    with trace() as ops:
        F.cross_entropy(case.leaf(500, 40), torch.zeros(500, dtype=torch.int64)).backward()
    assert {f"torchext.cross_entropy.{case.overload}", f"torchext.cross_entropy_backward.{case.overload}"} <= set(ops)
    assert not any("softmax" in op or "nll" in op for op in ops)


@pytest.mark.native
@pytest.mark.parametrize("shape", [(3000, 10), (200, 700), (3, 30, 40, 50)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads_and_repeat(threads, shape):
    x, target = torch.randn(shape, requires_grad=True), indices(shape)
    results = []
    for count in (1, 2, 2):
        threads(count)
        loss = F.cross_entropy(x, target)
        results.append((loss, *torch.autograd.grad(loss, x)))
    assert all(torch.equal(one, other) for result in results for one, other in zip(results[0], result))


def test_inputs_and_gradients_are_not_modified(case):
    for shape, reduction in itertools.product(((5, 4), (300, 70)), REDUCTIONS):
        x, target, weight = case.leaf(*shape), indices(shape), case.tensor(shape[1]).abs()
        loss = F.cross_entropy(x, target, weight, reduction=reduction)
        dloss = torch.randn(loss.shape).to(case.dtype)
        before = [t.detach().clone() for t in (x, target, weight, dloss)]
        first, second = (torch.autograd.grad(loss, x, dloss, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()
        assert all(torch.equal(a, b) for a, b in zip(before, (x, target, weight, dloss)))


@pytest.mark.native
def test_no_more_bytes_are_saved_than_by_stock(saved_bytes):
    for shape in ((50, 40), (3000, 40), (2, 3, 64, 64)):
        x, target = torch.randn(shape, requires_grad=True), indices(shape)
        ours, stock = (saved_bytes(f, x, target) for f in (F.cross_entropy, stock_F.cross_entropy))
        assert ours <= stock and ours == x.numel() * 4


@pytest.mark.native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_runs_in_float32_as_stock_does(dtype):
    x, target = torch.randn(5, 4).to(dtype).requires_grad_(), torch.randint(4, (5,))
    with torch.autocast("cpu", dtype=torch.bfloat16), torchext.record_routes() as routes:
        ours, stock = F.cross_entropy(x, target), stock_F.cross_entropy(x, target)
    assert ours.dtype == stock.dtype == torch.float32 and routes[0].backend == "native"
    torch.testing.assert_close(ours, stock)
    torch.testing.assert_close(*(torch.autograd.grad(f, x)[0] for f in (ours, stock)))


@pytest.mark.native
@pytest.mark.parametrize("shape", [(3, 4), (3, 80), (2, 4, 5), (4,), (5000, 4)], ids=str)
def test_an_index_out_of_range_is_named(shape):
    positions, classes = class_sizes(shape)
    for bad in (classes, -1, 2**40):
        target = torch.zeros(positions, dtype=torch.int64)
        target.view(-1)[-1] = bad
        for grad in (False, True):
            with pytest.raises(
                IndexError, match=rf"target in \[0, {classes}\).* got {bad} .*Target {bad} is out of bounds"
            ):
                F.cross_entropy(torch.randn(shape, requires_grad=grad), target)


BAD = {
    "batch differs": lambda: (torch.randn(2, 3), torch.zeros(4, dtype=torch.int64), {}),
    "int32 target": lambda: (torch.randn(2, 3), torch.zeros(2, dtype=torch.int32), {}),
    "target [n, 1]": lambda: (torch.randn(2, 3), torch.zeros(2, 1, dtype=torch.int64), {}),
    "integer probabilities": lambda: (torch.randn(2, 3), torch.zeros(2, 3, dtype=torch.int64), {}),
    "weight too long": lambda: (torch.randn(2, 3), torch.zeros(2, dtype=torch.int64), {"weight": torch.ones(4)}),
    "smoothing 2": lambda: (torch.randn(2, 3), torch.zeros(2, dtype=torch.int64), {"label_smoothing": 2.0}),
    "unknown reduction": lambda: (torch.randn(2, 3), torch.zeros(2, dtype=torch.int64), {"reduction": "average"}),
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


@pytest.mark.native
def test_what_only_stock_takes_goes_to_stock():
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
