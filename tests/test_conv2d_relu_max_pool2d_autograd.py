"""conv2d_relu_max_pool2d in autograd, under the compiler and the transforms."""

import pytest
import torch
from conv2d_relu_max_pool2d_cases import LAST, ours, stock
from torch import library

import torchext


@pytest.fixture(autouse=True)
def native():
    """Ours wherever it can serve: our direct kernel for all but the largest shapes."""
    with torchext.backend("native"):
        yield


def test_gradcheck_and_gradgradcheck(isa, threads):
    threads(1)  # thousands of tiny calls of stock's, which would wake a second thread for each
    shapes = ((1, 1, 4, 5), (2, 1, 2, 2), (2,)) if isa == "triton" else ((2, 2, 6, 6), (3, 2, 3, 3), (3,))
    leaves = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(ours, leaves)
    assert torch.autograd.gradgradcheck(ours, leaves)


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_opcheck(layout, ceil_mode, overload):
    x = torch.randn(3, 2, 7, 6).to(memory_format=layout)
    w, b = torch.randn(4, 1, 3, 2), torch.randn(4)
    geometry, pool = ([1, 1], [1, 0], [1, 1], 2), ([2, 2], [2, 2], [0, 1])
    op = getattr(torch.ops.torchext.conv2d_relu_max_pool2d, overload)
    backward = getattr(torch.ops.torchext.conv2d_relu_max_pool2d_backward, overload)
    library.opcheck(op, (x, w, b, *geometry, *pool, ceil_mode))
    library.opcheck(op, (x, w, None, *geometry, *pool, ceil_mode))
    y, offsets = op(x, w, b, *geometry, *pool, ceil_mode)
    for wanted in ((True, True, True), (False, True, False), (True, False, False)):
        library.opcheck(backward, (y, offsets, x, w, *geometry, *pool, *wanted))


def test_vmap_and_forward_mode():
    x, w, b = torch.randn(5, 2, 1, 6, 6), torch.randn(3, 1, 3, 3), torch.randn(3)
    axes = (0, None, None)
    torch.testing.assert_close(torch.vmap(ours, axes)(x, w, b), torch.vmap(stock, axes)(x, w, b))

    def per_sample(function):
        return torch.vmap(torch.func.grad(lambda w, x: function(x, w, b).square().sum()), (None, 0))(w, x)

    torch.testing.assert_close(per_sample(ours), per_sample(stock))
    primals, tangents = (x[0], w, b), tuple(torch.randn_like(t) for t in (x[0], w, b))
    torch.testing.assert_close(*(torch.func.jvp(f, primals, tangents) for f in (ours, stock)))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_compiles_whole(dynamic, backend):
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic, backend=backend)
    for shape in ((5, 2, 6, 6), (7, 2, 8, 9), (2, 6, 6)):
        leaves = [torch.randn(*s, requires_grad=True) for s in (shape, (3, 2, 3, 3), (3,))]
        y, want = compiled(*leaves), stock(*leaves)
        torch.testing.assert_close(y, want)
        dy = torch.randn_like(y)
        torch.testing.assert_close(torch.autograd.grad(y, leaves, dy), torch.autograd.grad(want, leaves, dy))


def test_one_byte_a_result_is_saved(saved_bytes):
    leaves = [torch.randn(*s, requires_grad=True) for s in ((64, 1, 28, 28), (6, 1, 5, 5), (6,))]
    assert saved_bytes(ours, *leaves) == 64 * 6 * 12 * 12
    assert saved_bytes(stock, *leaves) == 64 * 6 * (24 * 24 * 4 + 12 * 12 * 8)


def test_inputs_and_gradients_are_not_modified(case):
    leaves = [case.leaf(5, 2, 6, 6), case.leaf(3, 2, 3, 3), case.leaf(3)]
    dy = case.tensor(5, 3, 2, 2)
    before = [t.detach().clone() for t in (*leaves, dy)]
    y = ours(*leaves)
    first = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    second = torch.autograd.grad(y, leaves, dy)
    assert all(torch.equal(a, b) for a, b in zip(before, (*leaves, dy)))
    assert all(torch.equal(a, b) for a, b in zip(first, second))
