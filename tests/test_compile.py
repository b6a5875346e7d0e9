"""torch.compile(backend="torchext"): the fusions on a traced graph, functional style included."""

import copy

import pytest
import torch
import torch.nn.functional as stock_F
from torch import nn as stock

import torchext
from torchext.demo import load


class Functional(stock.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = stock.Conv2d(1, 4, 3), stock.Linear(4 * 13 * 13, 10)

    def forward(self, x):
        x = stock_F.max_pool2d(stock_F.relu(self.conv(x)), 2)
        return torch.relu(self.fc(x.flatten(1)))


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def test_functional_chains_become_fused_ops():
    model = Functional()
    compiled = torch.compile(model, backend="torchext", fullgraph=True)
    x = torch.randn(16, 1, 28, 28)
    compiled(x)  # compiling runs stock's ops on fake tensors
    with torch.profiler.profile() as profile:
        y = compiled(x)
        y.sum().backward()
    ran = {event.name for event in profile.events()}
    assert {"torchext::conv2d_relu_max_pool2d", "torchext::linear_relu", "torchext::linear_backward"} <= ran
    assert not any(name.startswith(("aten::relu", "aten::max_pool2d", "aten::addmm")) for name in ran)
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    want = model(x)
    want.sum().backward()
    torch.testing.assert_close(y, want)
    for a, p in zip(gradients, model.parameters()):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-4)


def test_batch_norm_relu_and_pool_become_one_op():
    model = stock.Sequential(stock.Conv2d(1, 4, 3), stock.BatchNorm2d(4), stock.ReLU(), stock.MaxPool2d(2))
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="torchext", fullgraph=True)
    x = torch.randn(6, 1, 14, 14)
    with torchext.record_routes() as routes:
        y = compiled(x)
    assert ("batch_norm_relu_max_pool2d", "native") in [(r.op, r.backend) for r in routes]
    torch.testing.assert_close(y, twin(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(list(model.buffers()), list(twin.buffers()))


def test_a_value_used_twice_is_not_fused_away():
    fc = stock.Linear(4, 4)

    def function(x):
        y = fc(x)
        return stock_F.relu(y) + y

    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.compile(function, backend="torchext", fullgraph=True)(x), function(x))


def test_in_place_relu_and_returned_indices_stay_as_they_are():
    conv = stock.Conv2d(1, 2, 3)

    def function(x):
        y, indices = stock_F.max_pool2d(stock_F.relu(conv(x), inplace=True), 2, return_indices=True)
        return y, indices

    x = torch.randn(16, 1, 8, 8)
    for got, want in zip(torch.compile(function, backend="torchext", fullgraph=True)(x), function(x)):
        torch.testing.assert_close(got, want)


def test_lenet_trains_the_same_through_the_backend():
    losses = []
    for compiled in (False, True):
        module = load("torch")
        torch.manual_seed(0)
        model = module.LeNet()
        step = torch.compile(model, backend="torchext") if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        torch.manual_seed(1)
        x, t = torch.randn(32, 1, 28, 28), torch.randint(10, (32,))
        run = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = module.loss_function()(step(x), t)
            loss.backward()
            optimizer.step()
            run.append(loss.detach())
        losses.append(torch.stack(run))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


def test_a_model_of_our_layers_is_fused_as_a_model_of_stock_s():
    """Dynamo would trace into our functions, and the graph hold unfused ops, each in an autograd.Function."""
    model = load("torchext").LeNet()
    x = torch.randn(16, 1, 28, 28)
    compiled = torch.compile(model, backend="torchext", fullgraph=True)
    compiled(x)
    with torch.profiler.profile() as profile:
        y = compiled(x)
    ran = [event.name for event in profile.events() if event.name.startswith("torchext::")]
    assert ran == ["torchext::conv2d_relu_max_pool2d"] * 2 + ["torchext::linear_relu"] * 2 + ["torchext::linear"]
    torch.testing.assert_close(y, model(x))
