"""max_pool2d within torch: registration, transforms, compilation, routes, errors, the module."""

import pytest
import torch
from max_pool2d_cases import EXACT, LAYOUTS, channels_last, stock_pool
from torch import library
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import nn
from torchext.nn import functional as F


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(layout, dtype, overload):
    pool, backward, indices = (
        getattr(getattr(torch.ops.torchext, name), overload)
        for name in ("max_pool2d", "max_pool2d_backward", "max_pool2d_indices")
    )
    x = layout(torch.randn(2, 3, 9, 8, dtype=dtype))
    window = (3, 2, 2, 2, 1, 0, 1, 1)
    for last in (False, True):
        library.opcheck(pool, (x, last, False, 5, 4, *window))
        library.opcheck(pool, (x, last, True, 5, 4, *window))
        y, offsets = pool(x, last, True, 5, 4, *window)
        library.opcheck(backward, (layout(y), offsets, last, 9, 8, *window))
        library.opcheck(indices, (layout(offsets), last, 8, *window))
    library.opcheck(pool, (x[0], False, True, 5, 4, *window))


def test_vmap_per_sample_gradients_and_forward_mode():
    x, t = torch.randn(2, 4, 3, 8, 8)
    ours, stock = (lambda x, f=f: f(x, 3, 2, 1) for f in (F.max_pool2d, stock_F.max_pool2d))
    assert torch.equal(torch.vmap(ours)(x), torch.vmap(stock)(x))
    got, want = (torch.vmap(torch.func.grad(lambda x, f=f: f(x).square().sum()))(x) for f in (ours, stock))
    torch.testing.assert_close(got, want)
    for got, want in zip(torch.func.jvp(ours, (x,), (t,)), torch.func.jvp(stock, (x,), (t,))):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)])
@pytest.mark.parametrize("indices", [False, True])
def test_compiles_whole(dynamic, backend, indices):
    torch._dynamo.reset()
    pool = lambda f: lambda x: f(x, 3, 2, 1, return_indices=indices)
    compiled = torch.compile(pool(F.max_pool2d), fullgraph=True, dynamic=dynamic, backend=backend)
    for shape in ((2, 3, 8, 9), (4, 3, 12, 7), (3, 8, 8)):
        for layout in (lambda t: t, channels_last) if len(shape) == 4 else (lambda t: t,):
            x = layout(torch.randn(shape)).requires_grad_()
            got, want = compiled(x), pool(stock_F.max_pool2d)(x)
            torch.testing.assert_close(got, want, **EXACT)
            got, want = (t[0] if indices else t for t in (got, want))
            assert got.stride() == want.stride()
            (dx,), (want_dx,) = (torch.autograd.grad(t.square().sum(), x) for t in (got, want))
            torch.testing.assert_close(dx, want_dx)


def derivatives(pool, x, orders=3):
    """The first `orders` derivatives of a sum of fourth powers of the pooled map."""
    y = pool(x).pow(4).sum()
    found = []
    for _ in range(orders):
        (d,) = torch.autograd.grad(y, x, create_graph=True)
        found.append(d)
        y = d.pow(2).sum()
    return found


@pytest.mark.native
@pytest.mark.parametrize("window", [(2,), (3, 2, 1), (3, 1, 1)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_derivatives_of_any_order_match_stock_without_scatter_add(isa, window, layout, trace):
    """scatter_add sums by atomics on a GPU, in any order, and deterministic mode refuses it there."""
    x = LAYOUTS[layout](torch.randn(2, 3, 6, 7, dtype=torch.float64)).requires_grad_()
    with trace() as ops:
        ours = derivatives(lambda x: F.max_pool2d(x, *window), x)
    assert not any("scatter" in op or "index_put" in op for op in ops)
    overload = isa if isa in ("simt", "triton") else "default"
    assert ops.count(f"torchext.max_pool2d_backward.{overload}") > 3
    on_cpu = x.detach().cpu().requires_grad_()
    for got, want in zip(ours, derivatives(lambda x: stock_F.max_pool2d(x, *window), on_cpu)):
        torch.testing.assert_close(got.cpu(), want, rtol=1e-12, atol=1e-12 * float(want.abs().max()))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_batches_of_gradients(create_graph, layout):
    x, results = LAYOUTS[layout](torch.randn(2, 3, 6, 6, dtype=torch.float64)), []
    for pool in (F.max_pool2d, stock_F.max_pool2d):
        leaf = x.clone().requires_grad_()
        y = pool(leaf, 3, 2, 1).square()
        seeds = torch.eye(y.numel(), dtype=x.dtype).view(-1, *y.shape)
        (rows,) = torch.autograd.grad(y, leaf, seeds, create_graph=create_graph, is_grads_batched=True)
        results.append([rows.detach(), *(torch.autograd.grad(rows.square().sum(), leaf) if create_graph else ())])
        hessian = torch.autograd.functional.hessian
        results[-1].append(hessian(lambda x, f=pool: f(x, 3, 2, 1).pow(3).sum(), x[:1, :2], vectorize=True))
    torch.testing.assert_close(*results)


@pytest.mark.native
def test_our_kernel_ran_forward_and_backward(case, trace):
    with trace() as ops:
        F.max_pool2d(case.leaf(2, 3, 8, 8), 2).sum().backward()
    assert f"torchext.max_pool2d.{case.overload}" in ops and f"torchext.max_pool2d_backward.{case.overload}" in ops
    assert not any(op.startswith("aten.max_pool2d") for op in ops)


@pytest.mark.native
def test_offsets_are_all_that_is_saved_and_only_if_wanted(saved_bytes):
    x = torch.randn(2, 4, 16, 16, requires_grad=True)
    assert saved_bytes(lambda x: F.max_pool2d(x, 2), x) == 2 * 4 * 8 * 8
    assert saved_bytes(lambda x: F.max_pool2d_with_indices(x, 2), x) == 2 * 4 * 8 * 8
    assert [t.dtype for t in F.max_pool2d(x, 2).grad_fn.saved_tensors] == [torch.uint8]
    assert torch.ops.torchext.max_pool2d(x.detach(), False, False, 8, 8, 2, 2, 2, 2, 0, 0, 1, 1)[1].numel() == 0


def test_input_and_gradient_are_not_modified(case):
    x, dy = case.leaf(2, 3, 8, 8), case.tensor(2, 3, 4, 4)
    before = x.detach().clone(), dy.clone()
    y = F.max_pool2d(x, 3, 2, 1)
    first, second = (torch.autograd.grad(y, x, dy, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(x, before[0]) and torch.equal(dy, before[1]) and torch.equal(first, second)


def test_autocast_casts_nothing():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.max_pool2d(torch.randn(2, 3, 8, 8), 2).dtype == torch.float32


X = torch.randn(2, 3, 8, 8)
BAD = {
    "kernel 0": (X, 0), "stride 0": (X, 2, 0), "negative stride": (X, 2, -1), "padding over half": (X, 2, 2, 2),
    "negative padding": (X, 2, 1, -1), "dilation 0": (X, 2, 2, 0, 0), "kernel beyond input": (X, 20),
    "three sizes": (X, (2, 2, 2)), "float kernel": (X, 2.0), "text kernel": (X, "2"), "bool kernel": (X, True),
    "ceil_mode 1": (X, 2, 2, 0, 1, 1), "no channels": (X[:, :0], 2), "no rows": (X[:, :, :0], 2), "2-d": (X[0, 0], 2),
    "5-d": (X[None], 2), "no batch and no channels": (X[0, :0], 2), "bool input": (X > 0, 2),
    "not a tensor": ([1.0], 2),
    "complex input": (X + 0j, 2),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_arguments_raise_what_stock_raises_and_are_named(bad):
    with pytest.raises(Exception) as stock:
        stock_F.max_pool2d(*bad)
    for backend in ("auto", "native"):
        with (
            torchext.backend(backend),
            pytest.raises(stock.type, match=r"expected input .* kernel_size.*; got input .* kernel_size") as ours,
        ):
            F.max_pool2d(*bad)
        assert type(ours.value) is type(stock.value)


GOOD = {
    "one size in a tuple": (X, (2,)), "no strides": (X, (2, 2), []), "integer input": (X.round().int(), 2),
    "more than 255 taps": (torch.randn(1, 1, 20, 30), (16, 16), 1), "tensor kernel": (X, torch.tensor(2)),
}  # fmt: skip


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD)
def test_what_our_kernel_does_not_serve_goes_to_stock(good):
    with torchext.record_routes() as routes:
        assert torch.equal(F.max_pool2d(*good), stock_F.max_pool2d(*good))
    assert [r.backend for r in routes] == ["stock"] and routes[0].why


def test_small_maps_go_to_stock_by_default():
    with torchext.backend("auto"), torchext.record_routes() as routes:
        for size in (8, 128):
            F.max_pool2d(torch.randn(1, 1, size, size), 2)
    assert [r.backend for r in routes] == ["stock", "native"]


def test_module_is_a_drop_in(assert_drop_in):
    x = torch.randn(2, 3, 8, 8)
    for arguments in ({"kernel_size": 2}, {"kernel_size": (3, 2), "stride": 2, "padding": 1, "ceil_mode": True}):
        assert_drop_in(nn.MaxPool2d(**arguments), stock_nn.MaxPool2d(**arguments), x, exact=True)
        assert repr(nn.MaxPool2d(**arguments)) == repr(stock_nn.MaxPool2d(**arguments))
    y, indices = nn.MaxPool2d(2, return_indices=True)(x)
    assert torch.equal(stock_nn.MaxUnpool2d(2)(y, indices), stock_F.max_unpool2d(*stock_pool(x, 2), 2))
