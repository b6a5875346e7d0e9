"""What the losses save for backward: no more bytes than stock, and no user's tensor that stock does not save."""

import itertools

import pytest
import torch
from cross_entropy_cases import REDUCTIONS, indices, probabilities
from linear_cross_entropy_cases import unfused
from torch.nn import functional as stock_F

from torchext import cross_entropy
from torchext.nn import functional as F

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
N, K, C = 40, 5, 60
RAISED = "modified by an inplace operation"


@pytest.fixture(autouse=True)
def gradients_are_made_in_forward(monkeypatch):
    """Also for few logits without reduction, as for many."""
    monkeypatch.setattr(cross_entropy, "_FEW", 0)


def tensors_of(op, dtype, probable, weighted, moving):
    """Results of other ops, so that each may be edited in place; `moving` are those that want a gradient."""
    torch.manual_seed(0)
    made = {"x": (N, C)} if op == "cross_entropy" else {"x": (N, K), "w": (C, K), "b": (C,)}
    made = {name: torch.randn(shape, dtype=torch.float64).to(dtype) for name, shape in made.items()}
    made["target"] = probabilities((N, C), dtype) if probable else indices((N, C))
    made["weight"] = torch.rand(C).to(dtype) if weighted else None
    return {name: t.requires_grad_() + 0 if name in moving else t for name, t in made.items()}


def loss_of(op, ours, t, **options):
    if op == "cross_entropy":
        return (F if ours else stock_F).cross_entropy(t["x"], t["target"], t["weight"], **options)
    if not ours:
        return unfused(t["x"], t["w"], t["b"], t["target"], t["weight"], **options)
    return F.linear_cross_entropy(
        t["x"], t["w"], t["target"], linear_bias=t["b"], weight=t["weight"], **options
    )  # fmt: skip


def edit(t):
    if t.dtype == torch.int64:
        t.detach()[0] = (t[0] + 1) % C
    else:
        t.detach().add_(1)


def gradients_after(edited, op, ours, t, moving, create_graph, **options):
    """None where backward raised because of the edit."""
    loss = loss_of(op, ours, t, **options)
    edit(t[edited])
    wanted = [t[name] for name in moving]
    factors = torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype).view(loss.shape)
    try:
        first = torch.autograd.grad(loss, wanted, factors, create_graph=create_graph, allow_unused=True)
        if create_graph and any(g is not None and g.requires_grad for g in first):
            loss = sum(g.square().sum() for g in first)
            return torch.autograd.grad(loss, wanted, allow_unused=True)
    except RuntimeError as error:
        assert RAISED in str(error), error
        return None
    return first


def assert_close(ours, stock):
    """To the precision of the largest element: stock's 16-bit gradients are off by several percent."""
    for a, b in zip(ours, stock, strict=True):
        largest = b.abs().max().item()
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(b.dtype, 0.04)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * largest)


def count(op, ours, tensors, options):
    """Bytes of the distinct storages that a call keeps for backward."""
    storages = {}

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    pack.sees_torchext = True
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss_of(op, ours, tensors, **options)
    return sum(storages.values())


SOFT = [("x",), ("target",), ("x", "target")]
LINEAR = [names for r in (1, 2, 3) for names in itertools.combinations(("x", "w", "b"), r)]
KINDS = [("cross_entropy", False, ("x",)), *(("cross_entropy", True, moving) for moving in SOFT)]
KINDS += [("linear_cross_entropy", probable, moving) for probable in (False, True) for moving in LINEAR]
kinds = pytest.mark.parametrize("op, probable, moving", KINDS, ids=lambda v: v if isinstance(v, str) else str(v))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
every_option = list(itertools.product(REDUCTIONS, (0.0, 0.1), (False, True)))


@dtypes
@kinds
def test_no_more_bytes_than_stock_are_kept(op, probable, moving, dtype):
    """Where the logits are copied, two or three numbers per position are allowed beside them."""
    for reduction, smoothing, weighted in every_option:
        tensors = tensors_of(op, dtype, probable, weighted, moving)
        options = {"reduction": reduction, "label_smoothing": smoothing}
        ours, stock = (count(op, k, tensors, options) for k in (True, False))
        copied = probable or dtype == torch.float16 or op != "cross_entropy"
        stats = 4 * (dtype.itemsize // 8 + 1) * ((2 + probable) * N + 1)
        assert ours <= stock + copied * stats, (options, weighted)


@dtypes
@kinds
def test_an_edit_raises_where_stocks_does_and_otherwise_gradients_match_stock(op, probable, moving, dtype):
    for reduction, smoothing, weighted in every_option:
        options = {"reduction": reduction, "label_smoothing": smoothing}
        for edited in ("x", "w", "b", "target", "weight"):
            pair = [tensors_of(op, dtype, probable, weighted, moving) for _ in range(2)]
            if pair[0].get(edited) is None:
                continue
            ours, stock = (
                gradients_after(edited, op, k, t, moving, False, **options) for k, t in zip((True, False), pair)
            )
            assert ours is not None or stock is None, f"{edited} {options} weighted {weighted}: only ours raises"
            if ours is not None and stock is not None:
                assert_close(ours, stock)


@kinds
def test_the_same_where_the_gradients_are_differentiated(op, probable, moving):
    made = op == "linear_cross_entropy"
    for reduction, smoothing, weighted in every_option:
        options = {"reduction": reduction, "label_smoothing": smoothing}
        for edited in ("x", "w", "b", "target", "weight"):
            pair = [tensors_of(op, torch.float64, probable, weighted, moving) for _ in range(2)]
            if pair[0].get(edited) is None:
                continue
            ours, stock = (
                gradients_after(edited, op, k, t, moving, True, **options) for k, t in zip((True, False), pair)
            )
            # the logits of a mean or a sum are not saved, and cannot be recomputed after the edit
            assert ours is not None or stock is None or (made and reduction != "none"), f"{edited} {options}"
            if ours is not None and stock is not None:
                torch.testing.assert_close(ours, stock)


def leaves(op, dtype=torch.float32, probable=False):
    tensors = tensors_of(op, dtype, probable, True, ())
    moving = [t.requires_grad_() for name, t in tensors.items() if name in ("x", "w", "b")]
    return tensors, moving


OPS = ("cross_entropy", "linear_cross_entropy")
ops = pytest.mark.parametrize("op", OPS)
reductions = pytest.mark.parametrize("reduction", REDUCTIONS)


@ops
@reductions
@dtypes
def test_two_backwards_factors_sums_and_accumulation(op, reduction, dtype):
    results = []
    for ours in (True, False):
        tensors, moving = leaves(op, dtype)

        def loss(tensors=tensors, ours=ours):
            return loss_of(op, ours, tensors, reduction=reduction).sum()

        once = loss()
        once.backward(retain_graph=True)
        with torch.no_grad():
            for t in moving:
                t.grad.mul_(7)  # shared with no other gradient
        once.backward()
        (loss() * 0.5).backward()
        (loss() + 3 * loss()).backward()
        torch.stack([loss(), loss()]).prod().backward()
        with pytest.raises(RuntimeError, match="second time"):
            once.backward()
        results.append([t.grad for t in moving])
        assert not any(t.grad.requires_grad for t in moving)
    assert_close(*results)


@reductions
@pytest.mark.parametrize("op, graph", itertools.product(OPS, ({}, {"retain_graph": True}, {"create_graph": True})))
def test_ignored_positions_get_finite_gradients_of_a_non_finite_loss(op, graph, reduction):
    """A sum divided by zero tokens: dloss is infinite, and stock's gradients are still 0."""
    for dloss, none_counts in itertools.product((float("inf"), float("nan"), 2.0), (False, True)):
        results = []
        for ours in (True, False):
            tensors, moving = leaves(op)
            tensors["target"][: N if none_counts else 3] = -100
            loss = loss_of(op, ours, tensors, reduction=reduction)
            results.append(torch.autograd.grad(loss, moving, torch.full_like(loss, dloss), **graph))
        for g, want in zip(*results):
            assert torch.equal(g.isfinite(), want.isfinite())
        if none_counts or dloss == 2.0:
            torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(results[0][0][:3], torch.zeros_like(tensors["x"][:3]))


@ops
@reductions
@pytest.mark.parametrize("probable", [False, True])
def test_batches_of_gradients(op, reduction, probable):
    results = []
    for ours in (True, False):
        tensors, moving = leaves(op, torch.float64, probable)
        loss = loss_of(op, ours, tensors, reduction=reduction)
        batch = torch.linspace(-1, 2, 3 * loss.numel(), dtype=loss.dtype).view(3, *loss.shape)
        of_batch = torch.autograd.grad(loss, moving, batch, is_grads_batched=True)

        def of_x(x, tensors=tensors, ours=ours):
            return loss_of(op, ours, {**tensors, "x": x}, reduction=reduction)

        jacobian = torch.autograd.functional.jacobian(of_x, tensors["x"].detach(), vectorize=True)
        hessian = torch.autograd.functional.hessian(lambda x: of_x(x).sum(), tensors["x"].detach(), vectorize=True)
        results.append((*of_batch, jacobian, hessian))
    torch.testing.assert_close(*results)


@ops
def test_under_vmap_and_forward_mode_of_a_backward(op):
    """Transforms of a backward whose forward ran outside them."""
    results = []
    for ours in (True, False):
        tensors, moving = leaves(op, torch.float64)
        loss = loss_of(op, ours, tensors)

        def pullback(dloss, loss=loss, moving=moving):
            return torch.autograd.grad(loss, moving, dloss, retain_graph=True)

        batch = torch.vmap(pullback)(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(torch.ones_like(loss), torch.full_like(loss, 3.0)).detach()
            tangents = [torch.autograd.forward_ad.unpack_dual(g).tangent for g in pullback(dual)]
        results.append((*batch, *(t for t in tangents if t is not None)))
    torch.testing.assert_close(*results)
