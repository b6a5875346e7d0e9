"""conv2d and conv2d_relu in autograd, under the compiler and the transforms."""

import pytest
import torch
from conv2d_cases import FUNCTIONS, LAST, both, bound
from torch import library

from torchext import _conv2d_plan


@pytest.fixture(params=FUNCTIONS)
def pair(request):
    return FUNCTIONS[request.param]


def test_gradcheck_and_gradgradcheck(isa, conv2d_kernel, pair, threads):
    threads(1)  # thousands of tiny calls of stock's, which would wake a second thread for each
    n, size, k = (1, 3, 2) if isa == "triton" else (2, 4, 4)  # interpreted, each of 700 calls takes 50 ms
    for options in ({"padding": 1}, {"stride": 2, "groups": 2}):
        shapes = (n, 2, size, size), (k, 2 // options.get("groups", 1), size - 1, 2), (k,)
        leaves = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        ours = bound(pair[0], **options)
        assert torch.autograd.gradcheck(ours, leaves)
        assert torch.autograd.gradgradcheck(ours, leaves)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("algorithm", [_conv2d_plan.LIBRARYS, _conv2d_plan.DIRECTLY])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_opcheck(name, algorithm, layout, overload):
    if overload != "default" and algorithm == _conv2d_plan.LIBRARYS:
        pytest.skip("on a GPU one kernel serves all")
    x = torch.randn(3, 2, 6, 5).to(memory_format=layout)
    w, b = torch.randn(4, 1, 3, 2), torch.randn(4)
    geometry = ([1, 2], [1, 0], [1, 1], 2, algorithm)
    op, backward = (getattr(getattr(torch.ops.torchext, o), overload) for o in (name, "conv2d_backward"))
    library.opcheck(op, (x, w, b, *geometry))
    library.opcheck(op, (x, w, None, *geometry))
    y = op(x, w, b, *geometry)
    for wanted in ((True, True, True), (False, True, False), (True, False, True)):
        library.opcheck(backward, (y, x, w, y, *geometry, *wanted))
        library.opcheck(backward, (y, x, w, None, *geometry, *wanted))


def test_vmap_and_per_sample_gradients(pair):
    ours, stock = pair
    x, w, b = torch.randn(5, 2, 1, 6, 6), torch.randn(3, 1, 3, 3), torch.randn(3)
    axes = (0, None, None)
    torch.testing.assert_close(torch.vmap(ours, axes)(x, w, b), torch.vmap(stock, axes)(x, w, b))

    def per_sample(function):
        return torch.vmap(torch.func.grad(lambda w, x: function(x, w, b).square().sum()), (None, 0))(w, x)

    torch.testing.assert_close(per_sample(ours), per_sample(stock))


def test_forward_mode(pair):
    primals, tangents = ([torch.randn(*s) for s in ((2, 2, 4, 4), (3, 2, 3, 3), (3,))] for _ in range(2))
    for got, want in zip(*(torch.func.jvp(f, tuple(primals), tuple(tangents)) for f in pair)):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_compiles_whole(pair, dynamic, backend):
    torch._dynamo.reset()
    ours, stock = both(pair, padding=1, stride=(1, 2))
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic, backend=backend)
    for shape in ((5, 2, 6, 6), (7, 2, 8, 5), (2, 6, 6)):
        leaves = [torch.randn(*s, requires_grad=True) for s in (shape, (3, 2, 3, 3), (3,))]
        y, want = compiled(*leaves), stock(*leaves)
        torch.testing.assert_close(y, want)
        dy = torch.randn_like(y)
        torch.testing.assert_close(torch.autograd.grad(y, leaves, dy), torch.autograd.grad(want, leaves, dy))


def test_inputs_and_gradients_are_not_modified(case, conv2d_kernel, pair):
    leaves = [case.leaf(5, 2, 6, 6), case.leaf(3, 2, 3, 3), case.leaf(3)]
    dy = case.tensor(5, 3, 4, 4)
    before = [t.detach().clone() for t in (*leaves, dy)]
    y = pair[0](*leaves)
    first = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    second = torch.autograd.grad(y, leaves, dy)
    assert all(torch.equal(a, b) for a, b in zip(before, (*leaves, dy)))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_nothing_is_saved_beyond_inputs_and_result(conv2d_kernel, pair, saved_bytes):
    leaves = [torch.randn(*s, requires_grad=True) for s in ((9, 2, 12, 12), (3, 2, 3, 3), (3,))]
    assert saved_bytes(pair[0], *leaves) == 0


@pytest.mark.native
def test_only_the_requested_gradients_are_computed(pair):
    x, w = torch.randn(2, 1, 6, 6), torch.randn(3, 1, 3, 3, requires_grad=True)
    y = pair[0](x, w)
    wanted = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "conv2d_backward" in str(function):
                wanted.append(args[-3:])
            return function(*args, **(kwargs or {}))

    with Spy():
        y.sum().backward()
    assert wanted == [(False, True, False)]
