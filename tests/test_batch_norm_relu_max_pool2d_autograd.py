"""batch_norm_relu_max_pool2d in autograd, under the compiler and the transforms, and as a module."""

import copy
import pickle

import pytest
import torch
from batch_norm_relu_max_pool2d_cases import LAST, ours, stock, window
from torch import library
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import nn

OP = torch.ops.torchext.batch_norm_relu_max_pool2d.default
BACKWARD = torch.ops.torchext.batch_norm_relu_max_pool2d_backward.default


def leaves(*size, dtype=torch.float32):
    return [torch.randn(s, dtype=dtype).requires_grad_() for s in (size, size[1:2], size[1:2])]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("options", [{}, window(3, 2, 1)], ids=str)
def test_gradcheck_twice(options, last):
    x, w, b = leaves(2, 3, 4, 6, dtype=torch.float64)
    x = (x.detach().contiguous(memory_format=LAST) if last else x.detach()).requires_grad_()
    function = lambda *t: ours(*t, **options)
    assert torch.autograd.gradcheck(function, (x, w, b))
    assert torch.autograd.gradgradcheck(function, (x, w, b))


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_the_requested_gradients_are_computed(needed):
    tensors = [t.detach().requires_grad_(need) for t, need in zip(leaves(3, 4, 8, 8), needed)]
    results = []
    for function in (ours, stock):
        function(*tensors).square().sum().backward()
        results.append([t.grad for t in tensors])
        for t in tensors:
            t.grad = None
    for got, want, need in zip(*results, needed):
        assert (got is None) == (want is None) == (not need)
        if need:
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("last", [False, True])
def test_opcheck(last):
    x, w, b = leaves(3, 4, 7, 6)
    x = x.detach().contiguous(memory_format=LAST if last else torch.contiguous_format)
    w, b = w.detach(), b.detach()
    rest = (2, 3, 3, 2, 2, 2, 1, 0)  # [2, 3] windows of 3 x 2, 2 apart, padded by 1 above: fewer than fit
    for weight, bias in ((w, b), (None, None)):
        library.opcheck(OP, (x, weight, bias, 1e-5, last, *rest))
        y, offsets, statistics = OP(x, weight, bias, 1e-5, last, *rest)
        for want_dx in (True, False):
            library.opcheck(BACKWARD, (y, offsets, x, statistics, weight, 1e-5, last, *rest[2:], want_dx))


def test_bad_calls_of_the_op_are_refused():
    x, w = torch.randn(2, 3, 4, 4), torch.randn(3)
    for arguments in (
        (x[0], w, None, 1e-5, False, 2, 2, 2, 2, 2, 2, 0, 0),
        (x, torch.randn(4), None, 1e-5, False, 2, 2, 2, 2, 2, 2, 0, 0),
        (x, w.double(), None, 1e-5, False, 2, 2, 2, 2, 2, 2, 0, 0),
        (x, w, None, 1e-5, False, 9, 2, 2, 2, 2, 2, 0, 0),
        (x, w, None, 1e-5, False, 2, 2, 2, 2, 0, 2, 0, 0),
        (x, w, None, 1e-5, False, 2, 2, 2, 2, 2, 2, 2, 0),
    ):
        with pytest.raises(RuntimeError, match="batch_norm_relu_max_pool2d: "):
            OP(*arguments)


def test_vmap_and_forward_mode_are_composed():
    x, w, b = torch.randn(5, 2, 3, 6, 6), torch.randn(3), torch.randn(3)
    axes = (0, None, None)
    torch.testing.assert_close(torch.vmap(ours, axes)(x, w, b), torch.vmap(stock, axes)(x, w, b))
    primals, tangents = (x[0], w, b), tuple(torch.randn_like(t) for t in (x[0], w, b))
    torch.testing.assert_close(*(torch.func.jvp(f, primals, tangents) for f in (ours, stock)))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_compiles_whole(dynamic, backend):
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic, backend=backend)
    for size in ((5, 2, 6, 6), (7, 2, 8, 9)):
        tensors = leaves(*size)
        mean, var = torch.zeros(2), torch.ones(2)
        twins = mean.clone(), var.clone()
        y, want = compiled(*tensors, mean, var), stock(*tensors, *twins)
        torch.testing.assert_close((y, mean, var), (want, *twins))
        dy = torch.randn_like(y)
        torch.testing.assert_close(
            torch.autograd.grad(y, tensors, dy), torch.autograd.grad(want, tensors, dy), rtol=1e-4, atol=1e-5
        )


def test_only_our_kernel_ran(trace):
    with trace() as ops:
        ours(*leaves(5, 2, 6, 6)).sum().backward()
    name = "torchext.batch_norm_relu_max_pool2d"
    assert f"{name}.default" in ops and f"{name}_backward.default" in ops
    assert not any(op.startswith(("aten.native_batch", "aten.relu", "aten.threshold", "aten.max_pool")) for op in ops)


def test_one_byte_a_result_is_saved(saved_bytes):
    tensors = leaves(16, 8, 28, 28)
    assert saved_bytes(ours, *tensors) == 16 * 8 * 14 * 14 + 2 * 8 * 4
    assert saved_bytes(stock, *tensors) >= 16 * 8 * (28 * 28 * 4 + 14 * 14 * 8)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("options", [{}, window(3, 2, 1)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(threads, options, last):
    x, w, b = leaves(20, 6, 80, 60)
    x = (x.detach().contiguous(memory_format=LAST) if last else x.detach()).requires_grad_()
    results = []
    for count in (1, 2, 3):
        threads(count)
        mean, var = torch.zeros(6), torch.ones(6)
        y = ours(x, w, b, mean, var, **options)
        results.append((y, mean, var, *torch.autograd.grad(y.square().sum(), (x, w, b))))
    assert all(torch.equal(t, u) for other in results[1:] for t, u in zip(results[0], other))


def test_inputs_and_gradients_are_not_modified():
    tensors = leaves(5, 2, 6, 6)
    dy = torch.randn(5, 2, 3, 3)
    before = [t.detach().clone() for t in (*tensors, dy)]
    y = ours(*tensors)
    first = torch.autograd.grad(y, tensors, dy, retain_graph=True)
    second = torch.autograd.grad(y, tensors, dy)
    assert all(torch.equal(a, b) for a, b in zip(before, (*tensors, dy)))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


COMPOSED = {
    "evaluation": ({"training": False}, "only training is fused"),
    "dilated pool": ({"pool_dilation": 2}, "a pooling only stock takes"),
    "window of 256": ({"pool_kernel_size": 16}, "a pooling only stock takes"),
}


@pytest.mark.parametrize("options", COMPOSED.values(), ids=COMPOSED)
def test_unfused_calls_are_composed_and_recorded(options):
    options, why = options
    x, w, b = leaves(3, 4, 18, 18)
    results = []
    for function in (ours, stock):
        statistics = torch.full((4,), 0.5), torch.full((4,), 2.0)
        with torchext.record_routes() as routes:
            results.append((function(x, w, b, *statistics, **options), *statistics))
        if function is ours:
            assert (routes[0].op, routes[0].backend, routes[0].why) == ("batch_norm_relu_max_pool2d", "stock", why)
    torch.testing.assert_close(*results)


def test_autocast_and_mixed_dtypes_go_to_stock():
    x, w, b = leaves(3, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(x, w, b), stock(x, w, b))
    x = x.detach().bfloat16()
    assert torch.equal(ours(x, w, b), stock(x, w, b))
    with torchext.backend("stock"):
        assert torch.equal(ours(x, w, b), stock(x, w, b))


BAD = {
    "one element a channel": ((torch.zeros(1, 3, 1, 1), torch.zeros(3), torch.zeros(3)), {"pool_kernel_size": 1}),
    "eps": ((torch.zeros(2, 3, 4, 4), torch.zeros(3), torch.zeros(3)), {"eps": 0.0}),
    "weight": ((torch.zeros(2, 3, 4, 4), torch.zeros(4), torch.zeros(3)), {}),
    "running_mean": ((torch.zeros(2, 3, 4, 4), None, None, torch.zeros(4), torch.zeros(4)), {}),
    "window too large": ((torch.zeros(2, 3, 4, 4), None, None), {"pool_kernel_size": 5}),
    "pool_padding": ((torch.zeros(2, 3, 4, 4), None, None), {"pool_padding": 2}),
    "integer input": ((torch.zeros(2, 3, 4, 4, dtype=torch.int64), None, None), {}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_raises_what_stock_raises_and_names_the_arguments(bad):
    arguments, options = bad
    with pytest.raises(Exception) as theirs:
        stock(*arguments, **options)
    with pytest.raises(theirs.type, match=r"expected input .* pooling .*; got input .* pool_kernel_size") as error:
        ours(*arguments, **options)
    assert type(error.value) is type(theirs.value)


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_the_module_is_a_drop_in(affine, momentum, track):
    options = {"affine": affine, "momentum": momentum, "track_running_stats": track}
    fused = nn.BatchNormReLUMaxPool2d(4, **options, pool_kernel_size=3, pool_stride=2, pool_padding=1)
    norm = stock_nn.BatchNorm2d(4, **options)
    twin = copy.deepcopy(fused)
    for _ in range(3):
        x = torch.randn(5, 4, 9, 8) * 2 + 1
        torch.testing.assert_close(twin(x), stock_F.max_pool2d(norm(x).relu(), 3, 2, 1))
    torch.testing.assert_close(dict(twin.state_dict()), dict(norm.state_dict()))

    class Stock(stock_nn.BatchNorm2d):
        def forward(self, x):
            return stock_F.max_pool2d(super().forward(x).relu(), 3, 2, 1)

    norm.eval(), fused.eval()
    norm.__class__ = Stock
    fused.load_state_dict(norm.state_dict(), strict=True)
    torch.testing.assert_close(fused(x), norm(x))
    assert isinstance(fused, stock_nn.BatchNorm2d) and "pool_kernel_size=3" in repr(fused)
    assert list(fused.state_dict()) == list(norm.state_dict())
    torch.testing.assert_close(pickle.loads(pickle.dumps(fused))(x), norm(x))
