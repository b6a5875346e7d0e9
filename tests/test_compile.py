"""torch.compile(backend="torchext"): the fusions on a traced graph, functional style included."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as stock_F
from torch import nn as stock

import torchext
from torchext.compile import _warn_once
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


def test_a_model_of_our_layers_is_fused_like_one_of_stocks():
    """Otherwise Dynamo traces into our functions, and the graph holds unfused ops, each in an autograd.Function."""
    model = load("torchext").LeNet()
    x = torch.randn(16, 1, 28, 28)
    compiled = torch.compile(model, backend="torchext", fullgraph=True)
    compiled(x)
    with torch.profiler.profile() as profile:
        y = compiled(x)
    ran = [event.name for event in profile.events() if event.name.startswith("torchext::")]
    assert ran == ["torchext::conv2d_relu_max_pool2d"] * 2 + ["torchext::linear_relu"] * 2 + ["torchext::linear"]
    torch.testing.assert_close(y, model(x))


def LeNet(style):
    conv1, conv2, fc1, fc2 = (
        stock.Conv2d(1, 6, 5),
        stock.Conv2d(6, 16, 5),
        stock.Linear(256, 120),
        stock.Linear(120, 84),
    )
    pool, relu = stock.MaxPool2d(2), stock.ReLU()

    class Nested(stock.Module):
        def __init__(self):
            super().__init__()
            self.layers = stock.ModuleList([conv1, conv2, fc1, fc2])

        def forward(self, x):
            for conv in self.layers[:2]:
                x = stock_F.max_pool2d(stock_F.relu(conv(x)), 2)
            x = x.flatten(1)
            return stock_F.relu(fc2(stock_F.relu(fc1(x))))

    class TwoStatements(Nested):
        def forward(self, x):
            for conv in self.layers[:2]:
                x = conv(x)
                x = torch.relu(x)
                x = torch.max_pool2d(x, 2)
            x = fc1(x.view(x.size(0), -1)).relu()
            x = fc2(x)
            return relu(x)

    if style == "Sequential":
        return stock.Sequential(conv1, relu, pool, conv2, relu, pool, stock.Flatten(), fc1, relu, fc2, relu)
    return {"nested": Nested, "two statements": TwoStatements}[style]()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("style", ["nested", "two statements", "Sequential"])
def test_lenet_is_fused_in_every_style_and_for_every_batch(style, dynamic):
    model = LeNet(style)
    compiled = torch.compile(model, backend="torchext", fullgraph=True, dynamic=dynamic)
    for n in (16, 24):
        x = torch.randn(n, 1, 28, 28)
        with torchext.backend("native"), torchext.record_routes() as routes:
            y = compiled(x)
        assert [route.op for route in routes] == ["conv2d_relu_max_pool2d"] * 2 + ["linear_relu"] * 2
        torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-4)


def test_arguments_by_name_and_methods_are_fused_too():
    def function(x, w, b):
        h = stock_F.conv2d(weight=w, bias=b, input=x).relu()
        return stock_F.max_pool2d(kernel_size=2, input=h, padding=1)

    inputs = torch.randn(4, 1, 9, 9), torch.randn(2, 1, 3, 3), torch.randn(2)
    with torchext.backend("native"), torchext.record_routes() as routes:
        y = torch.compile(function, backend="torchext", fullgraph=True)(*inputs)
    assert [route.op for route in routes] == ["conv2d_relu_max_pool2d"]
    torch.testing.assert_close(y, function(*inputs), rtol=1e-4, atol=1e-4)


def test_an_in_place_relu_is_seen_through_its_input_and_its_views():
    conv = stock.Conv2d(1, 2, 3)

    def function(x):
        h = conv(x)
        view = h[0]
        y = stock_F.relu(h, inplace=True)
        return y * 2, h + 1, view - 1

    x = torch.randn(4, 1, 8, 8)
    for got, want in zip(torch.compile(function, backend="torchext", fullgraph=True)(x), function(x)):
        torch.testing.assert_close(got, want)


@pytest.fixture
def unwarned():
    _warn_once.cache_clear()


def test_modes_and_options_are_ignored_with_one_warning(unwarned):
    layer, x = stock.Linear(30, 40), torch.randn(20, 30)
    with pytest.warns(UserWarning, match=r"ignores options\['trace.enabled'\]") as caught:
        for _ in range(2):
            torch._dynamo.reset()
            compiled = torch.compile(layer, backend="torchext", options={"trace.enabled": True})
            torch.testing.assert_close(compiled(x), layer(x))
    assert len([w for w in caught if "torchext" in str(w.message)]) == 1
    with pytest.warns(UserWarning, match="ignores mode='max-autotune'"):
        torch.testing.assert_close(torch.compile(layer, backend="torchext", mode="max-autotune")(x), layer(x))


def test_the_default_mode_does_not_warn(unwarned):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        torch.compile(stock.Linear(3, 4), backend="torchext", mode="default", options=None)(torch.ones(2, 3))


@pytest.mark.parametrize(
    "arguments, error, told",
    [
        ({"mode": "fast"}, RuntimeError, "mode is 'fast', expected one of 'default', '"),
        ({"mode": 3}, RuntimeError, "mode is 3, expected one of 'default'"),
        ({"options": ["fast"]}, TypeError, r"options is \['fast'\], expected a dict with names"),
        ({"options": {1: True}}, TypeError, r"options is \{1: True\}, expected a dict with names"),
    ],
)
def test_invalid_modes_and_options_are_refused(arguments, error, told):
    with pytest.raises(RuntimeError, match=told) as caught:
        torch.compile(stock.Linear(3, 4), backend="torchext", **arguments)(torch.ones(2, 3))
    assert isinstance(caught.value.inner_exception, error)
