"""accelerate(): an existing model runs on our kernels, and nothing else about it changes."""

import copy

import pytest
import torch
from torch import nn as stock

import torchext
from torchext import nn


def cnn():
    return stock.Sequential(
        stock.Conv2d(1, 6, 5), stock.ReLU(), stock.MaxPool2d(2, 2),
        stock.Conv2d(6, 16, 5), stock.ReLU(),
        stock.Flatten(),
        stock.Linear(1024, 32), stock.ReLU(), stock.Dropout(0.0), stock.Linear(32, 10),
    )  # fmt: skip


def test_layers_become_ours():
    model = torchext.accelerate(cnn())
    assert type(model) is nn.Sequential
    assert [type(layer) for layer in model] == [
        nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Conv2d, nn.ReLU, stock.Flatten,
        nn.Linear, nn.ReLU, nn.Dropout, nn.Linear,
    ]  # fmt: skip


def test_same_numbers_same_state_dict_same_parameters():
    model = cnn()
    twin = copy.deepcopy(model)
    parameters, keys = list(model.parameters()), list(model.state_dict())
    assert torchext.accelerate(model) is model
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters))
    x = torch.randn(16, 1, 28, 28)
    y, want = model(x), twin(x)
    torch.testing.assert_close(y, want)
    y.square().sum().backward()
    want.square().sum().backward()
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    twin.load_state_dict(model.state_dict(), strict=True)


def test_an_optimizer_made_before_still_works():
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torchext.accelerate(model)
    before = model[0].weight.detach().clone()
    model(torch.randn(2, 1, 28, 28)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)


def test_layers_with_a_forward_of_their_own_are_left_alone():
    class Mine(stock.Linear):
        def forward(self, input):
            return super().forward(input) + 1

    class Odd(stock.Sequential):
        def forward(self, input):
            return self[0](input)

    weight_normed = torch.nn.utils.parametrizations.weight_norm(stock.Linear(4, 4))
    model = stock.ModuleList([Mine(4, 4), Odd(stock.Linear(4, 4), stock.ReLU()), weight_normed, stock.BatchNorm1d(4)])
    torchext.accelerate(model)
    assert type(model[0]) is Mine and type(model[1]) is Odd and type(model[1][0]) is nn.Linear
    assert type(model[2]) is type(weight_normed) and type(model[3]) is stock.BatchNorm1d


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match=r"model is a str, expected a torch\.nn\.Module"):
        torchext.accelerate("model")


@pytest.mark.native
def test_explain_names_each_layer_and_restores_the_model():
    model = stock.Sequential(
        stock.Linear(4, 8), stock.BatchNorm1d(8), stock.ReLU(), stock.Linear(8, 2, dtype=torch.float32)
    )
    torchext.accelerate(model)
    before = copy.deepcopy(model.state_dict())
    explanation = torchext.explain(model, torch.randn(5, 4))
    assert [(c.layer, c.op, c.backend) for c in explanation.choices] == [
        ("0", "linear", "native"),
        ("3", "linear", "native"),
    ]
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
    assert "layer" in str(explanation) and "linear" in str(explanation)
    with torchext.backend("stock"):
        assert "stock" in str(torchext.explain(model, torch.randn(5, 4)))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        torchext.explain(None)
    assert "torchext.nn" in str(torchext.explain(stock.ReLU(), torch.randn(2)))


def test_explain_leaves_no_hooks_behind_when_the_model_fails():
    model = nn.Linear(4, 2)
    with pytest.raises(RuntimeError):
        torchext.explain(model, torch.randn(5, 3))
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_backend_refuses_unknown_names():
    with pytest.raises(ValueError, match="name is 'cuda12', expected one of 'auto'"), torchext.backend("cuda12"):
        pass
