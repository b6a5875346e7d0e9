"""Tools that look a layer up by its exact type find ours where they find torch's: counters, attribution, pruning."""

from collections import Counter

import pytest
import torch
from torch import nn as stock
from torch.nn.utils import fusion, parametrizations, parametrize, prune

import torchext
from torchext import nn
from torchext._counterpart import stock_of


def count_operations(model, x):
    """Counts by a hook chosen by exact type, as thop does."""
    rules = {
        stock.Conv2d: lambda m, x, y: y.numel() * m.weight[0].numel(),
        stock.Linear: lambda m, x, y: y.numel() * m.in_features,
        stock.MaxPool2d: lambda m, x, y: 0,
        stock.Dropout: lambda m, x, y: 0,
    }
    counted = Counter()
    for layer in model.modules():
        if type(layer) in rules:
            rule = rules[type(layer)]
            layer.register_forward_hook(lambda m, x, y, rule=rule: counted.update({rule: rule(m, x[0], y), "calls": 1}))
    model(x)
    return sorted(counted.values())


def deep_lift(model, x, baseline):
    """Takes quotients of differences for the derivatives of non-linear layers, found by exact type, as captum does."""

    def rectified(inputs, outputs, gradient):
        step = inputs[0] - inputs[1]
        slope = (outputs[0] - outputs[1]) / step.where(step.abs() > 1e-7, torch.ones_like(step))
        return torch.cat([slope[None], slope[None]]) * gradient

    def pooled(inputs, outputs, gradient):
        return gradient * 0.5  # differs from torch's own rule, so it shows whether it was found

    rules = {stock.ReLU: rectified, stock.MaxPool2d: pooled}

    def watch(layer):
        def forward(module, args, output):
            module.seen = args[0].detach(), output.detach()

        def backward(module, grad_input, grad_output):
            slot = rules[type(module)]
            gradient = grad_output[0] if slot is rectified else grad_input[0]
            return (slot(*module.seen, gradient),)

        return layer.register_forward_hook(forward), layer.register_full_backward_hook(backward)

    hooks = [hook for layer in model.modules() if type(layer) in rules for hook in watch(layer)]
    both = torch.cat([x, baseline]).requires_grad_()
    (gradient,) = torch.autograd.grad(model(both)[:, 0].sum(), both)
    for hook in hooks:
        hook.remove()
    return gradient[: len(x)] * (x - baseline)


def twins(build, accelerated):
    """The same network of torch's layers, and of ours or accelerated."""
    theirs = build(stock)
    ours = torchext.accelerate(build(stock)) if accelerated else build(nn)
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


def cnn(nn):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(100, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip


@pytest.mark.parametrize("accelerated", [False, True])
def test_a_counter_of_operations_by_type(accelerated):
    theirs, ours = twins(cnn, accelerated)
    x = torch.randn(2, 1, 12, 12)
    assert count_operations(ours, x) == count_operations(theirs, x) != []


@pytest.mark.parametrize("accelerated", [False, True])
def test_an_attribution_by_type(accelerated):
    theirs, ours = twins(cnn, accelerated)
    x, baseline = torch.randn(1, 1, 12, 12), torch.zeros(1, 1, 12, 12)
    want = deep_lift(theirs, x, baseline)
    plain = torch.autograd.grad(theirs(x.requires_grad_())[:, 0].sum(), x)[0] * (x - baseline)
    assert not torch.allclose(want, plain)
    torch.testing.assert_close(deep_lift(ours, x.detach(), baseline), want)


def test_a_policy_by_a_set_of_classes():
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy, lambda_auto_wrap_policy

    policy = ModuleWrapPolicy({stock.Linear})
    by_type = {stock.Linear}
    for layer in (nn.Linear(2, 2), stock.Linear(2, 2)):
        assert policy(layer, recurse=False, nonwrapped_numel=0)
        assert lambda_auto_wrap_policy(layer, False, 0, lambda module: type(module) in by_type)
    assert not policy(nn.Dropout(), recurse=False, nonwrapped_numel=0)


class Doubled(stock.Module):
    def forward(self, weight):
        return 2 * weight


REPARAMETRISE = {
    "parametrize": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight_norm": stock.utils.weight_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5) and layer,
}


@pytest.mark.parametrize("way", REPARAMETRISE)
def test_reparametrised(way):
    results = []
    for cls in (stock.Linear, nn.Linear):
        torch.manual_seed(3)
        layer = REPARAMETRISE[way](cls(6, 6)) or layer  # noqa: F821
        results.append((layer(torch.ones(2, 6)), list(layer.state_dict()), type(layer).__name__, layer.__module__))
        if parametrize.is_parametrized(layer):
            assert stock.Linear not in {type(layer)} and stock_of(type(layer)) is None
            assert parametrize.type_before_parametrizations(layer) == stock.Linear
            parametrize.remove_parametrizations(layer, "weight")
            assert type(layer) is cls
    (want, *told), (y, *tells) = results
    torch.testing.assert_close(y, want)
    assert tells == told


def test_batch_norm_folded_into_a_convolution():
    conv, norm = nn.Conv2d(2, 3, 3).eval(), nn.BatchNorm2d(3).eval()
    stock.init.uniform_(norm.running_mean)
    folded, x = fusion.fuse_conv_bn_eval(conv, norm), torch.randn(1, 2, 8, 8)
    assert type(folded) is nn.Conv2d
    torch.testing.assert_close(folded(x), norm(conv(x)))


def test_compiled():
    model = stock.ModuleDict({"conv": nn.Conv2d(1, 4, 3), "pool": nn.MaxPool2d(2), "linear": nn.Linear(100, 3)}).eval()

    class Net(stock.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.calls = model, 0

        def forward(self, x):
            layers = self.layers
            assert type(layers["conv"]) == stock.Conv2d and isinstance(layers["pool"], nn.MaxPool2d)  # noqa: E721
            return layers["linear"](layers["pool"](layers["conv"](x)).flatten(1))

    class Counting(nn.Linear):
        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x)

    net, x = Net(), torch.randn(2, 1, 12, 12)
    torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))
    layer = Counting(2, 2)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    compiled(torch.ones(1, 2)), compiled(torch.ones(1, 2))
    assert layer.calls == 2
