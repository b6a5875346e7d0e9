"""Programs that users write: results edited in place, steps between two backwards, passes in evaluation and training
before one backward. Each does with our layers what it does with torch's."""

import copy

import pytest
import torch
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import nn
from torchext.nn import functional as F

EDITS = {
    "a residual added": lambda y, skip: y.add_(skip),
    "scaled": lambda y, skip: y.mul_(2),
    "zeroed through data": lambda y, skip: y.data.mul_(0),
    "clamped without gradient": lambda y, skip: y.detach().clamp_(max=0.5),
}
MODELS = {  # layers of LeNet's, of those whose forward is Winograd's, and behind a batch norm; and the input's sizes
    "LeNet's first": (lambda nn: [nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)], (16, 1, 28, 28)),
    "Winograd's": (lambda nn: [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)], (16, 16, 14, 14)),
    "batch norm": (lambda nn: [nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)], (16, 6, 24, 24)),
    "linear, stacked": (lambda nn: [nn.Linear(256, 120)], (8, 16, 256)),
}
STYLES = "sequential", "functional"


@pytest.fixture(params=["auto", "native"], autouse=True)
def backend(request):
    with torchext.backend(request.param):
        yield request.param


def functional(model, F, x):
    """The layers of a Sequential called one by one, ReLU and pooling as nested functions."""
    y = model[0](x)
    return y if len(model) == 1 else F.max_pool2d(F.relu(y), 2)


def results(make, size, style, use):
    """use(y, parameters) with stock and with ours, from the same state and input."""
    stock = stock_nn.Sequential(*make(stock_nn))
    ours = nn.Sequential(*make(nn))
    ours.load_state_dict(stock.state_dict())
    x, found = torch.randn(size), []
    for model, functions in ((ours, F), (stock, stock_F)):
        y = model(x) if style == "sequential" else functional(model, functions, x)
        found.append(use(y, list(model.parameters())))
    return found


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("make, size", MODELS.values(), ids=MODELS)
def test_a_result_may_be_edited_in_place(make, size, edit, style):
    def use(y, parameters):
        edit(y, torch.linspace(-1, 1, y.numel()).view_as(y))
        gradients = torch.autograd.grad(y.square().sum() + y.sum(), parameters)
        return y, gradients

    torch.testing.assert_close(*results(make, size, style, use), rtol=1e-4, atol=1e-3)


def test_dropout_in_place_behind_a_pooled_convolution():
    layers = nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5, inplace=True)
    x, model = torch.randn(16, 16, 14, 14), nn.Sequential(*layers)
    y = model(x)
    got = torch.autograd.grad(y.sum(), list(model.parameters()))
    conv = copy.deepcopy(model[0])
    mask = (y.detach() != 0) * 2.0  # where the result is 0 without dropout, no gradient passes anyway
    want = (stock_F.max_pool2d(stock_F.conv2d(x, conv.weight, conv.bias, padding=1).relu(), 2) * mask).sum()
    torch.testing.assert_close(got, torch.autograd.grad(want, [conv.weight, conv.bias]), rtol=1e-4, atol=1e-3)


def test_a_stacked_linears_result_without_gradient_is_not_a_view():
    """Autograd refuses an edit that needs a gradient on a view made under no_grad."""
    for functions in (F, stock_F):
        with torch.no_grad():
            y = functions.linear(torch.randn(8, 16, 256), torch.randn(120, 256))
        y += torch.ones(120, requires_grad=True)
        assert y.requires_grad


@pytest.mark.parametrize("sizes", [(64, 256), (8, 16, 256)])
def test_two_backwards_with_a_step_between(sizes):
    """The first layer's weight is not saved: its input needs no gradient."""
    found = []
    for library in (nn, stock_nn):
        torch.manual_seed(0)
        layer, x = library.Linear(256, 120), torch.randn(sizes)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        loss = layer(x).square().mean()
        for _ in range(2):
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            optimizer.step()
        found.append(list(layer.parameters()))
    torch.testing.assert_close(*found)


def test_a_frozen_layers_input_may_be_edited():
    found = []
    for functions in (F, stock_F):
        torch.manual_seed(0)
        x, w = torch.randn(64, 256, requires_grad=True), torch.randn(120, 256)
        h = x * 1
        y = functions.linear(h, w)
        h.detach().zero_()
        found.append(torch.autograd.grad(y.square().sum(), x))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_passes_in_evaluation_and_training_before_one_backward(momentum):
    found = []
    for library in (nn, stock_nn):
        torch.manual_seed(0)
        layers = library.Conv2d(1, 6, 5), library.BatchNorm2d(6, momentum=momentum), library.ReLU()
        model, x = library.Sequential(*layers, library.MaxPool2d(2)), torch.randn(16, 1, 28, 28)
        before = [buffer._version for buffer in model.buffers()]
        calm, tense = model.eval()(x), model.train()(x)
        (calm - tense).square().sum().backward()
        steps = [buffer._version - version for buffer, version in zip(model.buffers(), before)]
        found.append((steps, [p.grad for p in model.parameters()], list(model.buffers())))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("frozen", ["x", "w", None])
@pytest.mark.parametrize("sizes", [(64, 255), (8, 16, 255)])
def test_batches_of_gradients_of_linear_and_one_gradient_after(sizes, frozen, create_graph):
    found = []
    for functions in (F, stock_F):
        torch.manual_seed(0)
        x, w = torch.randn(sizes, requires_grad=frozen != "x"), torch.randn(120, 255, requires_grad=frozen != "w")
        dy, leaves = torch.randn(3, *sizes[:-1], 120), [t for t in (x, w) if t.requires_grad]
        y = functions.linear(x, w)
        options = {"create_graph": create_graph, "retain_graph": True}
        batch = torch.autograd.grad(y, leaves, dy, is_grads_batched=True, **options)
        found.append((batch, torch.autograd.grad(y, leaves, dy[0])))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3)
