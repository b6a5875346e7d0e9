"""What each op saves for backward, whichever of its inputs are frozen: no byte more than stock's chain of calls, and
nothing whose edit stock would not notice. Another op is another row of OPS."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as stock_F

import torchext
from torchext import _backend, _conv2d_plan, _saved
from torchext.nn import functional as F


@dataclass
class Op:
    """`ours`, whose autograd node is `function`'s, and `stock` take the inputs, then the buffers."""

    function: str
    ours: Callable
    stock: Callable
    inputs: tuple[tuple[int, ...], ...]
    buffers: tuple[tuple[int, ...], ...] = ()
    algorithm: int | None = None  # of a convolution on the CPU

    def tensors(self, wanted):
        """Inputs, those `wanted` with gradient, and buffers; the same at every call."""
        random = torch.Generator().manual_seed(1)
        inputs = [torch.randn(s, generator=random).requires_grad_(w) for s, w in zip(self.inputs, wanted)]
        return inputs, [torch.rand(s, generator=random) for s in self.buffers]


def linear_relu(*xwb):
    return stock_F.relu(stock_F.linear(*xwb))


def conv2d_relu(*xwb):
    return stock_F.relu(stock_F.conv2d(*xwb))


def conv2d_relu_max_pool2d(*xwb):
    return stock_F.max_pool2d(conv2d_relu(*xwb), 2)


def our_conv2d_relu_max_pool2d(*xwb):
    return F.conv2d_relu_max_pool2d(*xwb, pool_kernel_size=2)


def batch_norm_relu_max_pool2d(x, w, b, mean, var):
    return stock_F.max_pool2d(stock_F.relu(stock_F.batch_norm(x, mean, var, w, b, True)), 2)


def our_batch_norm_relu_max_pool2d(x, w, b, mean, var):
    return F.batch_norm_relu_max_pool2d(x, mean, var, w, b, True, pool_kernel_size=2)


def our_dropout(x):
    torch.manual_seed(1)
    return F.dropout(x)


def dropout(x):
    """Stock's product, with our mask."""
    return x * our_dropout(torch.ones_like(x, requires_grad=False))


MATRICES = (6, 5), (4, 5), (4,)
STACKED = (2, 3, 5), (4, 5), (4,)
IMAGES = (3, 2, 8, 9), (4, 2, 3, 3), (4,)
BLOCKS = (3, 16, 9, 8), (16, 16, 3, 3), (16,)  # of 16 channels, as Winograd's algorithm requires
NORM = (3, 4, 6, 8), (4,), (4,)
DIRECT, WINOGRAD = ((), _conv2d_plan.DIRECTLY), ((), _conv2d_plan.BY_WINOGRAD)
OPS = {
    "linear": Op("Linear", F.linear, stock_F.linear, MATRICES),
    "linear, stacked": Op("Linear", F.linear, stock_F.linear, STACKED),
    "linear_relu": Op("LinearReLU", F.linear_relu, linear_relu, MATRICES),
    "linear_relu, stacked": Op("LinearReLU", F.linear_relu, linear_relu, STACKED),
    "conv2d": Op("Conv2d", F.conv2d, stock_F.conv2d, IMAGES, *DIRECT),
    "conv2d, Winograd": Op("Conv2d", F.conv2d, stock_F.conv2d, BLOCKS, *WINOGRAD),
    "conv2d_relu": Op("Conv2dReLU", F.conv2d_relu, conv2d_relu, IMAGES, *DIRECT),
    "conv2d_relu, Winograd": Op("Conv2dReLU", F.conv2d_relu, conv2d_relu, BLOCKS, *WINOGRAD),
    "conv2d_relu_max_pool2d": Op(
        "Conv2dReLUMaxPool2d", our_conv2d_relu_max_pool2d, conv2d_relu_max_pool2d, IMAGES, *DIRECT
    ),
    "conv2d_relu_max_pool2d, Winograd": Op(
        "Conv2dReLUMaxPool2dByWinograd", our_conv2d_relu_max_pool2d, conv2d_relu_max_pool2d, BLOCKS, *WINOGRAD
    ),
    "max_pool2d": Op("MaxPool2d", lambda x: F.max_pool2d(x, 2), lambda x: stock_F.max_pool2d(x, 2), IMAGES[:1]),
    "batch_norm_relu_max_pool2d": Op(
        "BatchNormReLUMaxPool2d", our_batch_norm_relu_max_pool2d, batch_norm_relu_max_pool2d, NORM, NORM[1:]
    ),
    "dropout": Op("Dropout", our_dropout, dropout, MATRICES[:1]),
}


def choices(op):
    """Which of the inputs need a gradient: every combination but none."""
    return list(itertools.product((True, False), repeat=len(op.inputs)))[:-1]


CASES = [(name, wanted) for name, op in OPS.items() for wanted in choices(op)]
IDS = [f"{name}-{''.join('01'[want] for want in wanted)}" for name, wanted in CASES]
each_case = pytest.mark.parametrize("name, wanted", CASES, ids=IDS)
BACKENDS = [name for name in ("native", "simt", "triton") if name in _backend.backends()]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def memory_is_nan_until_it_is_written():
    """A placeholder for a tensor that was not saved then shows if it is read."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def gradients_of(function, op, wanted, edited=None, order=1):
    """The gradients, of the first order or of both; or the error that an edit before backward brings."""
    inputs, buffers = op.tensors(wanted)
    y = function(*inputs, *buffers)
    if edited is not None:
        [*inputs, *buffers, y][edited].detach().add_(1)
    leaves = [t for t in inputs if t.requires_grad]
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).requires_grad_(order > 1)
    try:
        first = torch.autograd.grad(y, leaves, dy, create_graph=order > 1)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return error
    if order == 1:
        return first
    total = sum(t.square().sum() for t in first)
    return *first, *torch.autograd.grad(total, [*leaves, dy], allow_unused=True, materialize_grads=True)


def saved_bytes(function, op, wanted):
    """Bytes of all storages that autograd holds for backward, including leaves'."""
    inputs, buffers = op.tensors(wanted)
    saved = []

    def pack(t):
        saved.append(t.untyped_storage())
        return t

    pack.sees_torchext = True
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(*inputs, *buffers)
    assert y.requires_grad
    return sum({storage.data_ptr(): storage.nbytes() for storage in saved}.values())


@each_case
def test_no_more_bytes_are_saved_than_by_stock(name, wanted):
    op = OPS[name]
    with torchext.backend("native"):
        ours = saved_bytes(op.ours, op, wanted)
    assert ours <= saved_bytes(op.stock, op, wanted)


@each_case
def test_our_function_is_the_one_tested(name, wanted):
    op = OPS[name]
    inputs, buffers = op.tensors(wanted)
    with torchext.backend("native"):
        y = op.ours(*inputs, *buffers)
        if op.algorithm is not None:
            plan = _conv2d_plan.plan("conv2d", *inputs, 1, 0, 1, 1)
            assert _conv2d_plan.algorithm(*inputs[:2], plan) == op.algorithm
    nodes, seen = [y.grad_fn], []
    while nodes:  # a view of it may be the result
        node = nodes.pop()
        seen.append(type(node).__name__)
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
    assert f"{op.function}FunctionBackward" in seen


@each_case
def test_an_edit_raises_only_where_stocks_does_and_otherwise_changes_nothing(name, wanted):
    op = OPS[name]
    stock = gradients_of(op.stock, op, wanted)
    for edited in range(len(op.inputs) + len(op.buffers) + 1):  # the result is the last
        with torchext.backend("native"):
            ours = gradients_of(op.ours, op, wanted, edited)
        if isinstance(ours, RuntimeError):
            assert isinstance(gradients_of(op.stock, op, wanted, edited), RuntimeError), f"edited: {edited}"
        else:
            torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


def test_the_placeholder_for_a_first_layers_weight_is_made_once(trace, monkeypatch):
    monkeypatch.setattr(_saved, "_filters", {})  # other tests may have filled it
    op = OPS["linear_relu"]
    with torchext.backend("native"):
        gradients_of(op.ours, op, (False, True, True))
        with trace() as ops:
            gradients_of(op.ours, op, (False, True, True))
    assert "torchext.linear_backward.default" in ops and not any("empty_strided" in op for op in ops)


BESIDE_A_FROZEN_WEIGHT = [case for case in CASES if "conv2d" in case[0] and not case[1][1] and case[1][2]]


@pytest.mark.parametrize("name, wanted", BESIDE_A_FROZEN_WEIGHT)
def test_a_bias_beside_a_frozen_weight_has_a_sum_of_its_own(name, wanted, trace):
    """Kernels sum it with the weight's gradient, which would read an input that was not saved, here NaN."""
    with torchext.backend("native"), trace() as ops:
        gradients_of(OPS[name].ours, OPS[name], wanted)
    assert any(op.startswith("aten.sum.") for op in ops)


@each_backend
@each_case
def test_gradients_of_both_orders_match_stock(name, wanted, backend):
    op = OPS[name]
    for order in (1, 2):
        with torchext.backend(backend):
            ours = gradients_of(op.ours, op, wanted, order=order)
        torch.testing.assert_close(ours, gradients_of(op.stock, op, wanted, order=order), rtol=1e-3, atol=1e-3)
