"""linear and linear_relu in autograd, under the compiler and the transforms."""

import pytest
import torch
from linear_relu_cases import FUNCTIONS
from torch import library

from torchext._linear_relu_route import LIBRARYS_PRODUCT, OUR_PRODUCT
from torchext.nn import functional as F


@pytest.fixture(params=FUNCTIONS)
def pair(request):
    return FUNCTIONS[request.param]


def test_gradcheck_and_gradgradcheck(isa, pair):
    for shape in ((5, 4), (2, 3, 4), (4,)):
        inputs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in (shape, (3, 4), (3,))]
        assert torch.autograd.gradcheck(pair[0], inputs)
        assert torch.autograd.gradgradcheck(pair[0], inputs)


def test_one_tensor_in_two_places_gets_both_gradients():
    x = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.linear_relu(x, x), x)
    assert torch.autograd.gradgradcheck(lambda x: F.linear_relu(x, x), x)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("algorithm", [LIBRARYS_PRODUCT, OUR_PRODUCT])
def test_opcheck(name, dtype, algorithm, overload):
    if overload != "default" and algorithm == LIBRARYS_PRODUCT:
        pytest.skip("a choice of the CPU's")
    x, w, b = (torch.randn(*s, dtype=dtype) for s in ((5, 6), (3, 6), (3,)))
    op, backward = (getattr(getattr(torch.ops.torchext, o), overload) for o in (name, "linear_backward"))
    library.opcheck(op, (x, w, b, algorithm))
    library.opcheck(op, (x.t().contiguous().t(), w, None, algorithm))
    y = op(x, w, b, algorithm)
    for wanted in ((True, True, True), (False, True, False), (True, False, True)):
        library.opcheck(backward, (y, x, w, y, algorithm, *wanted))
        library.opcheck(backward, (y, x, w, None, algorithm, *wanted))


def test_vmap_and_per_sample_gradients(pair):
    ours, stock = pair
    x, w, b = torch.randn(5, 2, 4), torch.randn(3, 4), torch.randn(3)
    torch.testing.assert_close(torch.vmap(ours, (0, None, None))(x, w, b), torch.vmap(stock, (0, None, None))(x, w, b))

    def per_sample(function):
        return torch.vmap(torch.func.grad(lambda w, x: function(x, w, b).square().sum()), (None, 0))(w, x)

    torch.testing.assert_close(per_sample(ours), per_sample(stock))


def test_a_tensor_that_outlived_its_transform_is_a_plain_tensor(pair):
    leaked = []
    torch.func.grad(lambda x: (leaked.append(x * 2), x.sum())[1])(torch.randn(3, 4))
    w = torch.randn(2, 4, requires_grad=True)
    y, want = pair[0](leaked[0], w), pair[1](leaked[0], w)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), w), torch.autograd.grad(want.sum(), w))


def test_forward_mode(pair):
    ours, stock = pair
    primals, tangents = ([torch.randn(*s) for s in ((5, 4), (3, 4), (3,))] for _ in range(2))
    for got, want in zip(*(torch.func.jvp(f, tuple(primals), tuple(tangents)) for f in (ours, stock))):
        torch.testing.assert_close(got, want)
    with torch.autograd.forward_ad.dual_level():
        dual = [torch.autograd.forward_ad.make_dual(p, t) for p, t in zip(primals, tangents)]
        got, want = (torch.autograd.forward_ad.unpack_dual(f(*dual)).tangent for f in (ours, stock))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_compiles_whole(pair, dynamic, backend):
    torch._dynamo.reset()
    compiled = torch.compile(pair[0], fullgraph=True, dynamic=dynamic, backend=backend)
    for shape in ((5, 4), (7, 4), (2, 3, 4)):
        inputs = [torch.randn(*s, requires_grad=True) for s in (shape, (3, 4), (3,))]
        y, want = compiled(*inputs), pair[1](*inputs)
        torch.testing.assert_close(y, want)
        dy = torch.randn_like(y)
        torch.testing.assert_close(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(want, inputs, dy))


def test_inputs_and_gradients_are_not_modified(case, pair):
    inputs = [case.leaf(5, 4), case.leaf(3, 4), case.leaf(3)]
    dy = case.tensor(5, 3)
    before = [t.detach().clone() for t in (*inputs, dy)]
    y = pair[0](*inputs)
    first = torch.autograd.grad(y, inputs, dy, retain_graph=True)
    second = torch.autograd.grad(y, inputs, dy)
    assert all(torch.equal(a, b) for a, b in zip(before, (*inputs, dy)))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_nothing_is_saved_beyond_inputs_and_result(pair, saved_bytes):
    inputs = [torch.randn(*s, requires_grad=True) for s in ((50, 40), (30, 40), (30,))]
    assert saved_bytes(pair[0], *inputs) == 0


def test_only_the_requested_gradients_are_computed(trace):
    x, w = torch.randn(200, 300), torch.randn(100, 300, requires_grad=True)
    y = F.linear_relu(x, w)
    wanted = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "linear_backward" in str(function):
                wanted.append(args[5:])
            return function(*args, **(kwargs or {}))

    with Spy():
        y.sum().backward()
    assert wanted == [(False, True, False)]
