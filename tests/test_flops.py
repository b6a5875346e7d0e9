"""torch.utils.flop_counter counts for our ops what it counts for the stock calls they replace."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as stock
from torch.utils import flop_counter

import torchext
from torchext import _flops, _op
from torchext.nn import functional as F

POOL = {"pool_kernel_size": 2}


def linear_relu(x, w, b):
    return stock.relu(stock.linear(x, w, b))


def conv2d_relu_max_pool2d(x, w, b, *options):
    return stock.max_pool2d(stock.relu(stock.conv2d(x, w, b, *options)), 2)


def linear_cross_entropy(x, w, b, reduction="none"):
    logits = stock.linear(x, w.flatten(0, -2), b.flatten()).unflatten(1, w.shape[:-1])
    return stock.cross_entropy(logits, indices(x, w), reduction=reduction)


def indices(x, w):
    return torch.zeros(len(x), *w.shape[1:-1], dtype=torch.int64)


def ours_linear_cross_entropy(x, w, b, reduction="none"):
    return F.linear_cross_entropy(x, w, indices(x, w), linear_bias=b, reduction=reduction)


CASES = {
    "linear": (F.linear, stock.linear, (64, 256), (120, 256)),
    "linear of three dimensions": (F.linear, stock.linear, (4, 16, 256), (120, 256)),
    "linear_relu": (F.linear_relu, linear_relu, (64, 256), (120, 256)),
    "conv2d": (F.conv2d, stock.conv2d, (4, 1, 28, 28), (6, 1, 5, 5)),
    "conv2d with options": (
        lambda *xwb: F.conv2d(*xwb, 2, 1, 1, 2), lambda *xwb: stock.conv2d(*xwb, 2, 1, 1, 2), (4, 8, 14, 14),
        (6, 4, 3, 3),
    ),
    "conv2d_relu": (F.conv2d_relu, lambda *xwb: stock.relu(stock.conv2d(*xwb)), (4, 1, 28, 28), (6, 1, 5, 5)),
    "conv2d_relu_max_pool2d": (
        lambda *xwb: F.conv2d_relu_max_pool2d(*xwb, **POOL), conv2d_relu_max_pool2d, (4, 1, 28, 28), (6, 1, 5, 5),
    ),
    "conv2d_relu_max_pool2d by Winograd's algorithm": (
        lambda *xwb: F.conv2d_relu_max_pool2d(*xwb, 1, 1, **POOL), lambda *xwb: conv2d_relu_max_pool2d(*xwb, 1, 1),
        (4, 64, 28, 28), (64, 64, 3, 3),
    ),
    "linear_cross_entropy": (ours_linear_cross_entropy, linear_cross_entropy, (64, 32), (50, 32)),
    "linear_cross_entropy at positions": (ours_linear_cross_entropy, linear_cross_entropy, (64, 32), (50, 3, 32)),
}  # fmt: skip


def count(function):
    """Runs our ops even while the counter's mode is active."""
    with flop_counter.FlopCounterMode(display=False) as counter:
        counter.mode.sees_torchext = True
        result = function()
    return counter.get_total_flops(), result


def leaves(x, w, frozen):
    return [torch.randn(s, requires_grad=i != frozen) for i, s in enumerate((x, w, w[:-1] if len(w) < 4 else w[:1]))]


@pytest.mark.parametrize("frozen", [None, 0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward_count_as_stocks(name, frozen):
    ours, theirs, x, w = CASES[name]
    counts = []
    for function in (theirs, ours):
        tensors = leaves(x, w, frozen)
        forward, y = count(lambda function=function, tensors=tensors: function(*tensors))
        loss = function(*tensors).sum()  # no mode observes it
        counts.append((forward, count(y.sum().backward)[0], count(loss.backward)[0]))
        assert count(lambda function=function, tensors=tensors: function(*(t.detach() for t in tensors)))[0] == forward
    assert counts[0] == counts[1] and all(counts[0])
    assert any("torchext" in type(node).__module__ or "Function" in type(node).__name__ for node in graph(loss))


def graph(t):
    nodes = [t.grad_fn]
    for node in nodes:
        nodes += [after for after, _ in node.next_functions if after is not None]
    return nodes


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_that_makes_its_gradients_in_forward_counts_as_stocks_in_total(reduction):
    totals = []
    for function in (linear_cross_entropy, ours_linear_cross_entropy):
        tensors = leaves((64, 32), (50, 32), None)
        forward, loss = count(lambda function=function, tensors=tensors: function(*tensors, reduction))
        totals.append(forward + count(loss.backward)[0])
    assert totals[0] == totals[1]


def test_an_op_called_by_itself():
    x, w = torch.randn(4, 3, 8, 8), torch.randn(5, 3, 3, 3)
    want, _ = count(lambda: stock.conv2d(x, w))
    call = x, w, None, [1, 1], [0, 0], [1, 1], 1, 0
    assert count(lambda: torch.ops.torchext.conv2d(*call))[0] == want
    names = [argument.name for argument in torch.ops.torchext.conv2d.default._schema.arguments]
    assert count(lambda: torch.ops.torchext.conv2d(**dict(zip(names, call))))[0] == want


def test_every_op_that_multiplies_has_a_formula():
    multiply = ("linear", "conv2d")
    names = {name for names in _op.OPS.values() for name in names}
    assert set(_flops.FORMULAS) == {name for name in names if name.startswith(multiply)}
    assert all(getattr(torch.ops.torchext, name) in flop_counter.flop_registry for name in _flops.FORMULAS)


@pytest.mark.parametrize("first", ["torchext", "torch.utils.flop_counter"])
def test_formulas_are_registered_in_either_import_order_without_loading_the_counter(first):
    program = f"""
import sys, importlib, torch
before = [*sys.meta_path]
importlib.import_module({first!r})
assert {first!r} != "torchext" or "torch.utils.flop_counter" not in sys.modules
import torchext, torch.utils.flop_counter as counter
assert torch.ops.torchext.linear in counter.flop_registry
assert torchext._flops._Finder not in sys.meta_path
assert "exec_module" not in vars(counter.__spec__.loader) and counter.__loader__ is counter.__spec__.loader
importlib.reload(counter)
torchext._flops.register()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_network_counts_as_torchs():
    def net(nn):
        return nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(864, 120), nn.ReLU(),
            nn.Linear(120, 10),
        )  # fmt: skip

    x, counts = torch.randn(16, 1, 28, 28), []
    for layers in (torch.nn, torchext.nn):
        model = net(layers)
        loss = model(x).sum()
        counts.append((count(loss.backward)[0], count(lambda model=model: model(x).sum().backward())[0]))
    assert counts[0] == counts[1]
