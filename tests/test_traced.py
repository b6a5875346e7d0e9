"""A graph traced from a model holds stock's calls and runs at other sizes than it was traced at."""

import io

import pytest
import torch
from torch import fx
from torch.nn import functional as stock_F

import torchext
from torchext import nn
from torchext.nn import functional as F

X = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def cnn(nn):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10),
    )  # fmt: skip


class Functional(torch.nn.Module):
    """The same in functional style."""

    def __init__(self, nn, F):
        super().__init__()
        torch.manual_seed(0)
        self.F, self.conv, self.linear = F, nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16 * 7 * 7, 10)

    def forward(self, x):
        F = self.F
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = F.max_pool2d(x, 2, ceil_mode=False)
        return F.dropout(self.linear(x[..., :7, :7].flatten(1)), 0.5, self.training)


def fused(nn):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        nn.ConvReLUMaxPool2d(1, 8, 5, pool_kernel_size=2), nn.ConvReLU2d(8, 8, 3),
        nn.BatchNormReLUMaxPool2d(8, pool_kernel_size=2), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.LinearReLU(128, 10),
    )  # fmt: skip


MODELS = {
    "Sequential": lambda: cnn(nn),
    "accelerated": lambda: torchext.accelerate(cnn(torch.nn)),
    "functional": lambda: Functional(nn, F),
    "fused layers": lambda: fused(nn),
}


@pytest.fixture(params=["native", "auto"])
def backend(request):
    with torchext.backend(request.param):
        yield


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(" ", "_"))
def model(request, backend):
    return MODELS[request.param]().eval()


def by_stock(model, *args):
    with torchext.backend("stock"):
        return model(*args)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("grad", [False, True])
def test_a_trace_holds_no_op_of_ours_and_no_size(model, grad):
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(model, X)
    assert "torchext::" not in str(traced.inlined_graph)
    stored = io.BytesIO()
    torch.jit.save(traced, stored)
    stored.seek(0)
    loaded = torch.jit.load(stored)
    for x in (torch.randn(4, 1, 40, 36), torch.randn(1, 1, 28, 28)):
        torch.testing.assert_close(loaded(x), by_stock(model, x))


@pytest.mark.filterwarnings("ignore")
def test_symbolic_trace_runs_at_other_sizes(model):
    graph = fx.symbolic_trace(model)
    assert not any("torchext" in getattr(node.target, "__module__", "") for node in graph.graph.nodes)
    for x in (X, torch.randn(3, 1, 40, 36)):
        torch.testing.assert_close(graph(x), by_stock(model, x))
        torch.testing.assert_close(fx.Interpreter(graph).run(x), by_stock(model, x))


FUNCTIONS = {
    "linear": lambda F, x, w: F.linear(x, w),
    "linear with bias": lambda F, x, w: F.linear(x, w, bias=w[:, 0]),
    "conv2d": lambda F, x, w: F.conv2d(x, w, padding=1),
    "max_pool2d": lambda F, x, w: F.max_pool2d(x, 2, return_indices=True),
    "cross_entropy": lambda F, x, w: F.cross_entropy(x, w, label_smoothing=0.1),
    **{
        name: lambda F, x, w, name=name: getattr(F, name)(x, 0.5, False)
        for name in ("dropout", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout")
    },
    "relu": lambda F, x, w: F.relu(x),
}


def nodes(function, F):
    graph = fx.Tracer().trace(lambda x, w: function(F, x, w))
    return [(node.op, getattr(node.target, "__name__", node.target), node.args, node.kwargs) for node in graph.nodes]


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_symbolic_trace_of_a_function_is_the_call_that_was_written(function, backend):
    assert str(nodes(function, F)) == str(nodes(function, stock_F))


BATCHES = {
    "Dim": lambda: torch.export.Dim("b", min=1, max=64),
    "DYNAMIC": lambda: torch.export.Dim.DYNAMIC,
    "AUTO": lambda: torch.export.Dim.AUTO,
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("name", MODELS)
def test_an_exported_batch_is_as_dynamic_as_stocks(name, batch, strict):
    model = MODELS[name]().eval()
    exported = torch.export.export(model, (X,), dynamic_shapes=({0: batch()},), strict=strict)
    graphs = [part.graph for part in exported.graph_module.modules() if isinstance(part, fx.GraphModule)]
    assert not any("torchext" in str(node.target) for graph in graphs for node in graph.nodes)
    stored = io.BytesIO()
    torch.export.save(exported, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for n in (1, 7, 64):
        x = torch.randn(n, 1, 28, 28)
        torch.testing.assert_close(loaded(x), by_stock(model, x))


def test_an_exported_loss_has_a_dynamic_batch():
    class Loss(torch.nn.Module):
        def forward(self, x, w, target):
            return F.cross_entropy(x @ w, target), F.dropout(x, 0.5, False), F.linear_cross_entropy(x, w.T, target)

    def inputs(n):
        return torch.randn(n, 32), torch.randn(32, 50), torch.randint(50, (n,))

    batch = torch.export.Dim("b", min=1, max=64)
    exported = torch.export.export(Loss(), inputs(16), dynamic_shapes=({0: batch}, None, {0: batch}))
    for n in (1, 7, 64):
        args = inputs(n)
        torch.testing.assert_close(exported.module()(*args), by_stock(Loss(), *args))
