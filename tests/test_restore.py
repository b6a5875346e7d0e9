"""restore(): the inverse of accelerate(); every layer of ours becomes its counterpart in torch."""

import copy

import pytest
import torch
from torch import nn as stock
from torch.nn.utils import parametrizations

import torchext
from torchext import nn


def net(nn):
    return stock.ModuleDict({
        "cnn": nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 4)),
        "drops": stock.ModuleList([nn.Dropout(0.3), nn.Dropout1d(), nn.Dropout2d(), nn.Dropout3d()]),
        "alpha": stock.ModuleList([nn.AlphaDropout(0.3), nn.FeatureAlphaDropout()]),
        "losses": stock.ModuleList([nn.CrossEntropyLoss(torch.ones(4)), nn.BatchNorm1d(3)]),
    })  # fmt: skip


def classes(model):
    return [type(layer) for layer in model.modules()]


def are(found, wanted):
    """Compares by identity: classes of ours equal torch's."""
    return len(found) == len(wanted) and all(a is b for a, b in zip(found, wanted))


def test_the_inverse_of_accelerate():
    model = net(stock)
    before, state = classes(model), copy.deepcopy([vars(layer) for layer in model.modules()])
    assert not are(classes(torchext.accelerate(model)), before)
    assert torchext.restore(model) is model
    assert are(classes(model), before)
    assert [vars(layer).keys() for layer in model.modules()] == [attributes.keys() for attributes in state]


def test_what_was_built_of_ours_becomes_torchs():
    model = net(nn)
    assert not are(classes(model), classes(net(stock)))
    assert are(classes(torchext.restore(model)), classes(net(stock)))
    assert are(classes(torchext.accelerate(model)), classes(net(nn)))


def test_every_counterpart_is_restored():
    for name in nn.OURS:
        if hasattr(stock, name):
            layer = object.__new__(getattr(nn, name))
            stock.Module.__init__(layer)
            assert type(torchext.restore(layer)) is getattr(stock, name)


@pytest.mark.skipif(not hasattr(stock, "LinearCrossEntropyLoss"), reason="new in torch 2.13")
def test_a_loss_with_a_layer_in_it():
    loss = nn.LinearCrossEntropyLoss(3, 4)
    assert are(classes(torchext.restore(loss)), [stock.LinearCrossEntropyLoss, stock.Linear])


def test_parameters_hooks_and_modes_stay():
    model, calls = net(nn).eval(), []
    model["cnn"].train()
    model["cnn"][0].register_forward_hook(lambda *_: calls.append("hook"))
    parameters, x = [*model.parameters()], torch.randn(2, 1, 12, 12)
    want = model["cnn"](x)
    torchext.restore(model)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert model["cnn"].training and model["cnn"][2].training and not model["drops"][0].training
    torch.testing.assert_close(model["cnn"](x), want)
    assert calls == ["hook", "hook"]


def test_classes_that_torch_lacks_and_subclasses_of_ours_stay():
    class Mine(nn.Linear):
        pass

    model = stock.ModuleList([
        nn.LinearReLU(2, 2), nn.ConvReLU2d(1, 1, 1), nn.ConvReLUMaxPool2d(1, 1, 1, pool_kernel_size=1),
        nn.BatchNormReLUMaxPool2d(1, pool_kernel_size=1), Mine(2, 2),
        parametrizations.weight_norm(nn.Linear(2, 2)), stock.GRU(2, 2),
    ])  # fmt: skip
    before = classes(model)
    assert are(classes(torchext.restore(model)), before)


def test_bad_input_is_refused():
    for value in ("model", None, nn.Linear):
        with pytest.raises(TypeError, match=rf"restore: model is a {type(value).__name__}, expected a torch\.nn\.Mod"):
            torchext.restore(value)


def test_it_is_public():
    assert "restore" in torchext.__all__
