"""torch.ao.quantization and fx convert a model of our layers to the same types as one of torch's."""

import pytest
import torch
from torch import nn as stock
from torch.ao import quantization as ao
from torch.ao.quantization import quantize_fx
from torch.fx.experimental import optimization

import torchext
from torchext import nn
from torchext._counterpart import stock_of

ENGINES = [name for name in torch.backends.quantized.supported_engines if name != "none"]
pytestmark = pytest.mark.skipif(not ENGINES, reason="this torch has no quantised kernels")
X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def engine():
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, ENGINES[0]
    yield
    torch.backends.quantized.engine = before


class Net(stock.Module):
    def __init__(self, nn):
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.conv, self.bn, self.relu, self.pool = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        self.tail = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten())
        self.first, self.relu2, self.drop = nn.Linear(72, 16), nn.ReLU(), nn.Dropout(0.0)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        x = self.pool(self.relu(self.bn(self.conv(self.quant(x)))))
        x = self.relu2(self.first(self.tail(x)))
        return self.dequant(self.last(self.drop(x)))


CHAINS = [["conv", "bn", "relu"], ["first", "relu2"]]


def dynamic(model, classes):
    return ao.quantize_dynamic(model.eval(), classes)


def fused(model, _):
    return ao.fuse_modules(model.eval(), CHAINS)


def fused_conv_bn(model, _):
    return ao.fuse_modules(model.eval(), [["conv", "bn"]])


def static(model, _):
    model = ao.fuse_modules(model.eval(), CHAINS)
    model.qconfig = ao.get_default_qconfig(ENGINES[0])
    model = ao.prepare(model)
    model(X)
    return ao.convert(model)


def static_unfused(model, _):
    model = stock.Sequential(model.quant, model.conv, model.pool, model.tail[0], stock.Flatten(), model.dequant).eval()
    model.qconfig = ao.get_default_qconfig(ENGINES[0])
    model = ao.prepare(model)
    model(X)
    return ao.convert(model)


def aware(model, _):
    model = ao.fuse_modules_qat(model.train(), CHAINS)
    model.qconfig = ao.get_default_qat_qconfig(ENGINES[0])
    model = ao.prepare_qat(model)
    model(X).sum().backward()
    return ao.convert(model.eval())


def fx_static(model, _):
    model = quantize_fx.prepare_fx(model.eval(), ao.get_default_qconfig_mapping(ENGINES[0]), (X,))
    model(X)
    return quantize_fx.convert_fx(model)


def fx_aware(model, _):
    model = quantize_fx.prepare_qat_fx(model.train(), ao.get_default_qat_qconfig_mapping(ENGINES[0]), (X,))
    model(X).sum().backward()
    return quantize_fx.convert_fx(model.eval())


def converted(way, model, classes):
    torch.manual_seed(2)
    model = way(model, classes)
    kinds = [stock_of(type(layer)) or type(layer) for layer in model.modules()]
    return model(X), [kind for kind in kinds if not issubclass(kind, torch.fx.GraphModule)]  # one is made for each


WAYS = [dynamic, fused, fused_conv_bn, static, static_unfused, aware, fx_static, fx_aware]


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_converted_as_torchs(way, accelerated):
    theirs = Net(stock)
    ours = torchext.accelerate(Net(stock)) if accelerated else Net(nn)
    ours.load_state_dict(theirs.state_dict())
    y, kinds = converted(way, ours, {nn.Linear if accelerated else stock.Linear})
    want, wanted = converted(way, theirs, {stock.Linear})
    assert kinds == wanted
    assert stock.BatchNorm2d not in kinds or way in (dynamic, static_unfused)
    assert way is fused_conv_bn or any(kind.__module__.startswith("torch.ao.nn.") for kind in kinds)
    torch.testing.assert_close(y, want, atol=1e-5, rtol=1e-5)


def test_a_layer_to_be_quantised_is_torchs():
    layer = nn.Conv2d(1, 2, 3)
    layer.qconfig = None
    assert type(layer) is nn.Conv2d
    layer.qconfig = ao.get_default_qconfig(ENGINES[0])
    assert type(layer) is stock.Conv2d


def test_symbolic_trace_takes_a_layer_as_a_leaf():
    theirs, ours = torch.fx.symbolic_trace(Net(stock)), torch.fx.symbolic_trace(Net(nn))
    assert [str(node) for node in ours.graph.nodes] == [str(node) for node in theirs.graph.nodes]
    assert ours.code == theirs.code
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.eval()(X), theirs.eval()(X))


def test_fx_fusion_is_right_and_fuses_once_restored():
    """torch.fx's fusion compares classes with `is`, so it fuses none of our layers."""
    model = Net(nn).eval()
    want = model(X)
    torch.testing.assert_close(optimization.fuse(model)(X), want)
    fused = optimization.fuse(torchext.restore(model))
    assert not any(isinstance(layer, stock.BatchNorm2d) for layer in fused.modules())
    torch.testing.assert_close(fused(X), want)
