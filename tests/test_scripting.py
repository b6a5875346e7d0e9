"""torch.jit.script compiles our layers as it compiles torch's, and leaves the layers unchanged."""

import copy

import pytest
import torch
from torch import nn as stock

from torchext import nn
from torchext.nn import functional as F

IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
ROWS = IMAGES.flatten(0, 2)
LAYERS = {
    "Linear": lambda: nn.Linear(12, 3),
    "LinearReLU": lambda: nn.LinearReLU(12, 3, bias=False),
    "Conv2d": lambda: nn.Conv2d(3, 4, (3, 2), padding=1, stride=2),
    "Conv2d same": lambda: nn.Conv2d(3, 4, 3, padding="same"),
    "Conv2d circular": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "ConvReLU2d": lambda: nn.ConvReLU2d(3, 6, 3, groups=3),
    "ConvReLUMaxPool2d": lambda: nn.ConvReLUMaxPool2d(3, 4, 3, pool_kernel_size=2),
    "BatchNormReLUMaxPool2d": lambda: nn.BatchNormReLUMaxPool2d(3, pool_kernel_size=(3, 2), pool_ceil_mode=True),
    "MaxPool2d": lambda: nn.MaxPool2d(3, 2, padding=1),
    "MaxPool2d indices": lambda: nn.MaxPool2d((2, 3), return_indices=True),
    "Dropout": lambda: nn.Dropout(0.4),
    "Dropout1d": lambda: nn.Dropout1d(0.4),
    "Dropout2d": lambda: nn.Dropout2d(0.4),
    "Dropout3d": lambda: nn.Dropout3d(0.4),
    "AlphaDropout": lambda: nn.AlphaDropout(0.4),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.4),
    "Sequential": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 5)
    ),
    "Sequential of torch's": lambda: nn.Sequential(stock.Conv2d(3, 4, 3), stock.ReLU(), stock.MaxPool2d(2)),
    "torch's Sequential": lambda: stock.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.MaxPool2d(2))),
}
LAYERS["accelerated"] = lambda: torch.nn.Sequential(LAYERS["Sequential"]())


def scripted_and_saved(module, path):
    torch.jit.save(torch.jit.script(module), path)
    return torch.jit.load(path)


def tuple_of(y):
    return y if isinstance(y, tuple) else (y,)


def test_every_layer_has_a_case():
    unscriptable = {"LinearCrossEntropyLoss"}  # torch's own has options that TorchScript does not know
    assert set(nn.OURS) <= {name.split()[0] for name in LAYERS} | {"CrossEntropyLoss"} | unscriptable


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_scripted_saved_and_loaded(name, train, tmp_path):
    layer = LAYERS[name]().train(train)
    classes = [type(module) for module in layer.modules()]
    state, attributes = copy.deepcopy(layer.state_dict()), set(vars(layer))
    scripted = scripted_and_saved(layer, tmp_path / "layer.pt")
    assert all(type(module) is cls for module, cls in zip(layer.modules(), classes, strict=True))
    assert set(vars(layer)) - {"__overloads__"} == attributes  # torch's own mark
    assert list(scripted.state_dict()) == list(state) and scripted.training is train
    if "Dropout" in name and train:
        want = {"Dropout1d": IMAGES[0], "Dropout3d": IMAGES[:, :, None]}.get(name, IMAGES)
        y = scripted(want)
        assert y.shape == want.shape and not torch.equal(y, want)
        return
    x = IMAGES[0] if name == "Dropout1d" else IMAGES
    for y, want in zip(tuple_of(scripted(x)), tuple_of(layer(x))):
        torch.testing.assert_close(y, want)
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(scripted.state_dict()[key], value)


def test_the_loss(tmp_path):
    target, weight = torch.arange(len(ROWS)) % 12, torch.rand(12)
    for options in ({}, {"weight": weight, "reduction": "sum", "label_smoothing": 0.1, "ignore_index": 3}):
        layer = nn.CrossEntropyLoss(**options)
        scripted = scripted_and_saved(layer, tmp_path / "loss.pt")
        torch.testing.assert_close(scripted(ROWS, target), layer(ROWS, target))
        assert list(scripted.state_dict()) == list(layer.state_dict())


@pytest.mark.skipif(not hasattr(stock, "LinearCrossEntropyLoss"), reason="new in torch 2.13")
def test_the_loss_that_torch_cannot_script_either():
    errors = []
    for namespace in (stock, nn):
        with pytest.raises(Exception, match="LinearCrossEntropyOptions") as error:
            torch.jit.script(namespace.LinearCrossEntropyLoss(3, 4))
        errors.append(error.type)
    assert errors[0] is errors[1]


class Net(stock.Module):
    def __init__(self, nn):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.heads = stock.ModuleList([nn.Linear(100, 5), nn.Linear(100, 5)])
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, double: bool) -> torch.Tensor:
        x = self.drop(self.features(x)).flatten(1)
        if double:
            x = 2 * x
        y = torch.zeros(1)
        for head in self.heads:
            y = y + head(x)
        return y


def test_inside_a_users_module_as_torchs(tmp_path):
    theirs, ours = Net(stock).eval(), Net(nn).eval()
    ours.load_state_dict(theirs.state_dict())
    ours.features.register_forward_hook(double_it), theirs.features.register_forward_hook(double_it)
    layers = [*ours.modules()]
    scripted, want = torch.jit.script(ours), torch.jit.script(theirs)
    assert [*ours.modules()] == layers and type(ours.features[0]) is nn.Conv2d
    assert list(scripted.state_dict()) == list(want.state_dict())
    loaded = scripted_and_saved(ours, tmp_path / "net.pt")
    for double in (False, True):
        torch.testing.assert_close(loaded(IMAGES, double), theirs(IMAGES, double))
        torch.testing.assert_close(ours(IMAGES, double), theirs(IMAGES, double))


def double_it(module: stock.Module, input: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    return 2 * output


def test_a_scripted_network_trains_as_torchs():
    theirs, ours = Net(stock), Net(nn)
    ours.load_state_dict(theirs.state_dict())
    theirs.drop.p = ours.drop.p = 0.0
    for net in (theirs, ours):
        torch.jit.script(net)(IMAGES, True).square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def convolve(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor):
    return F.relu(F.conv2d(x, w, b, padding=1)), F.conv2d(x, w, None, (2, 1), "valid", dilation=2)


def pool(x: torch.Tensor):
    largest, where = F.max_pool2d(x, [2, 3], stride=2, return_indices=True)
    return F.max_pool2d(x, 2, 2, 1), largest, where, F.max_pool2d_with_indices(x, 3)[1]


def drop(x: torch.Tensor):
    y = F.dropout2d(F.dropout(x, 0.5, False), training=False)
    y = y + F.dropout3d(y[:, :, None], 0.2, False)[:, :, 0] + F.dropout1d(y[:, 0], 0.2, False)[:, None]
    return F.feature_alpha_dropout(F.alpha_dropout(y, p=0.3), 0.5, False)


def lose(x: torch.Tensor, w: torch.Tensor):
    logits = F.linear(x.flatten(1), w.flatten(1)[:, :1].expand(4, x[0].numel()))
    target = torch.zeros(x.size(0), dtype=torch.int64)
    return F.cross_entropy(logits, target, label_smoothing=0.1), F.cross_entropy(logits, target, None, reduction="sum")


@pytest.mark.parametrize("function", [convolve, pool, drop, lose])
def test_functional_style(function):
    tensors = IMAGES, torch.randn(4, 3, 3, 3), torch.randn(4)
    arguments = tensors[: function.__code__.co_argcount]
    for y, want in zip(tuple_of(torch.jit.script(function)(*arguments)), tuple_of(function(*arguments)), strict=True):
        torch.testing.assert_close(y, want)


@pytest.mark.parametrize("name", [name for name in F.OURS if hasattr(stock.functional, name)])
def test_every_function_is_scripted_as_torchs(name):
    dispatched = torch._jit_internal.boolean_dispatched.get(getattr(F, name))
    theirs = getattr(stock.functional, name)
    if dispatched is None:
        find = torch.jit._builtins._find_builtin
        assert find(getattr(F, name)) == find(theirs) is not None
    else:
        assert dispatched["if_true"] is dispatched["if_false"] is theirs
