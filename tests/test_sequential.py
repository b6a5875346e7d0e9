"""nn.Sequential: neighbours run as one op unless that could be observed."""

import copy
import pickle

import pytest
import torch
from torch import nn as stock

import torchext
from torchext import nn


def cnn(nn):
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2, 2),
        nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, padding="same", padding_mode="circular"), nn.ReLU(),
        nn.Flatten(), nn.Linear(288, 64), nn.ReLU(inplace=True), nn.Linear(64, 10), nn.ReLU(),
    )  # fmt: skip


def ops(model, *args):
    with torchext.record_routes() as routes, torchext.backend("native"):
        y = model(*args)
    return y, [route.op for route in routes]


FUSED = ["conv2d_relu_max_pool2d", "conv2d", "batch_norm_relu_max_pool2d", "conv2d_relu", "linear_relu", "linear_relu"]


def twins():
    torch.manual_seed(0)
    model, twin = cnn(nn), cnn(stock)
    twin.load_state_dict(model.state_dict(), strict=True)
    assert list(twin.state_dict()) == list(model.state_dict()) and repr(twin) == repr(model)
    return model, twin


@pytest.mark.parametrize("training", [True, False])
def test_neighbours_are_served_as_one_with_the_same_results(training):
    model, twin = (m.train(training) for m in twins())
    x = torch.randn(16, 1, 28, 28)
    y, served = ops(model, x)
    assert served == (FUSED if training else [*FUSED[:3], "max_pool2d", *FUSED[3:]])  # a norm in eval is stock's
    want = twin(x)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
    y.square().sum().backward()
    want.square().sum().backward()
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(list(model.buffers()), list(twin.buffers()))


HOOKS = {
    "forward": lambda layer, seen: layer.register_forward_hook(lambda m, args, output: seen.append(output.clone())),
    "forward_pre": lambda layer, seen: layer.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone())),
    "full_backward": lambda layer, seen: layer.register_full_backward_hook(lambda m, a, b: seen.append(b[0].clone())),
    "full_backward_pre": lambda layer, seen: layer.register_full_backward_pre_hook(lambda m, g: seen.append(g[0])),
}


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("index", [0, 1, 2, 4, 5, 6])
def test_a_hook_sees_what_it_always_saw_and_its_removal_is_noticed(kind, index):
    x, seen = torch.randn(16, 1, 28, 28), []
    for model in twins():
        handle = HOOKS[kind](model[index], mine := [])
        model(x).square().sum().backward()
        seen.append(mine)
        handle.remove()
    assert len(seen[0]) == len(seen[1]) == 1
    torch.testing.assert_close(seen[0][0], seen[1][0], rtol=1e-3, atol=1e-3)
    assert ops(twins()[0], x)[1] == FUSED


def test_a_global_hook_sees_every_layer():
    model, _ = twins()
    seen = []
    handle = stock.modules.module.register_module_forward_hook(lambda m, args, output: seen.append(type(m)))
    try:
        model(torch.randn(16, 1, 28, 28))
    finally:
        handle.remove()
    assert seen == [*map(type, model), nn.Sequential]


def test_layers_with_a_forward_of_their_own_are_not_joined():
    class Leaky(stock.ReLU):
        def forward(self, input):
            return stock.functional.leaky_relu(input)

    x = torch.randn(5, 4)
    assert ops(nn.Sequential(nn.Linear(4, 3), Leaky()), x)[1] == ["linear"]
    model = nn.Sequential(stock.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU())
    assert ops(model, x)[1] == ["linear"]
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    model[1].forward = lambda input: input - 1
    torch.testing.assert_close(model(x), model[0](x) - 1)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2, return_indices=True))
    (y, indices), served = ops(model, torch.randn(2, 1, 8, 8))
    assert served == ["conv2d_relu", "max_pool2d"] and indices.dtype == torch.int64 and len(y) == 2


def test_it_is_a_sequential_in_every_other_way():
    model, _ = twins()
    x = torch.randn(2, 1, 28, 28)
    assert isinstance(model, stock.Sequential) and type(model[:3]) is nn.Sequential
    want = model.eval()(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), want)
    assert nn.Sequential()(x) is x
    assert ops(nn.Sequential(nn.Linear(28, 3)), x)[1] == ["linear"]
    graph = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(graph(x), want)
    torch.testing.assert_close(torch.func.functional_call(model, dict(model.named_parameters()), x), want)
    per_sample = torch.vmap(model, randomness="error")(x.unsqueeze(1))
    torch.testing.assert_close(per_sample[:, 0], want, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="linear_relu"):
        nn.Sequential(nn.Linear(4, 3), nn.ReLU())(torch.randn(2, 5))


def test_explain_names_the_layer_that_serves():
    model, _ = twins()
    with torchext.backend("native"):
        found = torchext.explain(model, torch.randn(16, 1, 28, 28)).choices
    assert [(c.layer, c.op) for c in found] == list(zip(["0", "3", "4", "7", "10", "12"], FUSED))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["torchext", "aot_eager"])
def test_compiles_whole_for_any_batch(backend, dynamic):
    torch._dynamo.reset()
    model, twin = twins()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    for n in (16, 24):
        x = torch.randn(n, 1, 28, 28)
        y, want = compiled(x), twin(x)
        torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
        model.zero_grad(), twin.zero_grad()
        y.square().sum().backward()
        want.square().sum().backward()
        for a, b in zip(model.parameters(), twin.parameters()):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-2)


class Reversed(nn.Sequential):
    """Runs its layers from the last to the first: a subclass may have an order of its own."""

    def __iter__(self):
        return iter([*self._modules.values()][::-1])


def test_a_subclass_with_an_order_of_its_own_keeps_it():
    layers = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)
    x = torch.randn(3, 4)
    torch.testing.assert_close(Reversed(*layers)(x), layers[0](layers[1](layers[2](x))))


PATCHES = {
    "a class's forward": (stock.ReLU, "forward"),
    "a convolution's own": (stock.Conv2d, "_conv_forward"),
    "ours": (nn.Conv2d, "_conv_forward"),
    "what calls every module": (stock.Module, "_call_impl"),
    "the call itself": (stock.Module, "__call__"),
}


@pytest.mark.parametrize("owner, name", PATCHES.values(), ids=PATCHES)
def test_what_was_replaced_is_called(owner, name, monkeypatch):
    x, original, seen = torch.randn(16, 1, 28, 28), getattr(owner, name), []

    def replaced(self, *args, **kwargs):
        seen.append(type(self))
        return original(self, *args, **kwargs)

    made = stock.Conv2d if owner is stock.Conv2d else nn.Conv2d
    model = nn.Sequential(made(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2))
    want = model(x)
    monkeypatch.setattr(owner, name, replaced)
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    assert any(layer is type(model[0]) or layer is stock.ReLU for layer in seen)


def test_a_replaced_function_is_called(monkeypatch):
    x, relu, seen = torch.randn(16, 4), stock.functional.relu, []
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    monkeypatch.setattr(stock.functional, "relu", lambda t, inplace=False: seen.append(1) or relu(t, inplace))
    model(x)
    assert seen == [1]


@pytest.mark.parametrize("before", [(), (nn.Linear(4, 4),), (nn.Linear(4, 4), nn.ReLU())], ids=len)
def test_a_layer_replaced_by_a_hook_before_it_is_replaced_in_this_pass(before):
    replaced = len(before) + 1
    model = nn.Sequential(*before, nn.Identity(), nn.Tanh())
    model[len(before)].register_forward_hook(lambda *_: model.__setitem__(replaced, nn.ReLU()))
    assert (model(torch.full((2, 4), 7.0)) == model(torch.full((2, 4), 7.0))).all() and type(model[-1]) is nn.ReLU


def test_a_layer_appended_in_a_pass_is_an_error_as_in_stock():
    for space in (stock, nn):
        model = space.Sequential(space.Linear(4, 4), space.Identity(), space.Tanh())
        model[1].register_forward_hook(lambda *_, model=model: model.append(stock.Identity()) and None)
        with pytest.raises(RuntimeError, match=r"mutated during iteration|changed size"):
            model(torch.ones(2, 4))


def test_a_convolution_with_a_forward_of_its_own_keeps_it():
    model = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2))
    model[0]._conv_forward = lambda x, w, b: torch.full((16, 6, 24, 24), 3.0)
    assert (model(torch.randn(16, 1, 28, 28)) == 3).all()
