"""Small user programs, each a function of `nn` and `F`: who sees an intermediate result, and what is saved."""

import functools
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import fx
from torch import nn as stock
from torch.autograd.graph import get_gradient_edge
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import torchext

X = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def kept_by_a_hook(keep):
    """A forward hook keeps a convolution's result; returns whether it is intact after the ReLU has run."""

    def program(nn, F):
        conv, kept = nn.Conv2d(1, 6, 5), []
        conv.register_forward_hook(lambda m, i, o: kept.append(keep(o)))
        F.relu(conv(X))
        return bool(kept[0].min() < 0)

    return program


def argument_held(call):
    """Returns whether a convolution's result is intact after `call` has applied a ReLU to it."""

    def program(nn, F):
        h = nn.Conv2d(1, 6, 5)(X)
        call(nn.ReLU(), F, h)
        return bool(h.min() < 0)

    return program


def submitted(relu, F, h):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(F.relu, h).result()


def interpreted_graph(nn, F):
    class Twice(stock.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = stock.Conv2d(1, 6, 5), stock.ReLU()

        def forward(self, x):
            h = self.conv(x)
            return self.relu(h) + h

    graph = fx.symbolic_trace(Twice())
    if nn is torchext.nn:
        torchext.accelerate(graph)
    return round(fx.Interpreter(graph).run(X).mean().item(), 5)


def legacy_backward_hook(nn, F):
    conv, calls = nn.Conv2d(1, 6, 5), []
    conv.register_backward_hook(lambda *_: calls.append(1))
    F.max_pool2d(F.relu(conv(X)), 2).sum().backward()
    return len(calls)


def node_prehook(nn, F):
    conv = nn.Conv2d(1, 6, 5)
    conv.register_forward_hook(lambda m, i, o: o.grad_fn.register_prehook(lambda g: (g[0] * 0,)) and None)
    F.max_pool2d(F.relu(conv(X)), 2).sum().backward()
    return float(conv.weight.grad.abs().max())


def gradient_edge(nn, F):
    conv, edges = nn.Conv2d(1, 6, 5), []
    conv.register_forward_hook(lambda m, i, o: edges.append(get_gradient_edge(o)))
    return torch.autograd.grad(F.max_pool2d(F.relu(conv(X)), 2).sum(), edges)[0].shape


def checkpointed_stage(nn, F):
    conv, runs = nn.Conv2d(1, 6, 5), []

    def stage(x):
        runs.append(1)
        return conv(x)

    y = F.max_pool2d(F.relu(checkpoint(stage, X.clone().requires_grad_(), use_reentrant=False)), 2)
    forward = len(runs)
    y.sum().backward()
    return forward, len(runs)


def relu_without_grad(nn, F):
    conv = nn.Conv2d(1, 6, 5)

    def forward(x):
        with torch.enable_grad():
            return conv(x)

    with torch.no_grad():
        return F.relu(forward(X)).requires_grad


WHO_SEES = {
    "a hook keeps o.detach()": kept_by_a_hook(lambda o: o.detach()),
    "a hook keeps o.data": kept_by_a_hook(lambda o: o.data),
    "a hook keeps a chunk": kept_by_a_hook(lambda o: o.detach().chunk(2)[0]),
    "a hook keeps its numpy": kept_by_a_hook(lambda o: torch.from_numpy(o.detach().numpy())),
    "a hook keeps its dlpack": kept_by_a_hook(lambda o: torch.from_dlpack(o.detach())),
    "relu(*[h])": argument_held(lambda relu, F, h: relu(*[h])),
    "F.relu(*[h])": argument_held(lambda relu, F, h: F.relu(*[h])),
    "functools.partial(relu, h)()": argument_held(lambda relu, F, h: functools.partial(relu, h)()),
    "relu._call_impl(h)": argument_held(lambda relu, F, h: relu._call_impl(h)),
    "executor.submit(F.relu, h)": argument_held(submitted),
    "fx.Interpreter": interpreted_graph,
    "legacy backward hook": legacy_backward_hook,
    "pre-hook of a node": node_prehook,
    "GradientEdge": gradient_edge,
    "detach_": lambda nn, F: F.max_pool2d(F.relu(nn.Conv2d(1, 6, 5)(X)).detach_(), 2).shape,
    "checkpoint": checkpointed_stage,
    "no_grad around the ReLU": relu_without_grad,
    "FlopCounterMode": lambda nn, F: flops(lambda: F.conv2d(X, torch.ones(6, 1, 5, 5))),
}


def flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def gradient_after(edit):
    """Returns the convolution's gradient when its pooled result is edited before backward."""

    def program(nn, F):
        conv = nn.Conv2d(1, 6, 5)
        y = F.max_pool2d(F.relu(conv(X)), 2)
        y = edit(y)
        y.sum().backward()
        return conv.weight.grad

    return program


def dropout_in_place(nn, F):
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5, inplace=True))
    model(torch.randn(16, 16, 14, 14)).sum().backward()
    return model[0].weight.grad.shape


def two_modes_one_backward(nn, F):
    model = nn.Sequential(nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
    model(X)
    a, b = model.eval()(X), model.train()(X)
    (a - b).square().mean().backward()
    return model[0].weight.grad


def edited_logits(nn, F):
    z = torch.randn(300, 50, requires_grad=True)
    y = z * 1
    loss = F.cross_entropy(y, torch.arange(300) % 50)
    y.detach().sub_(5)
    loss.backward()
    return z.grad


def step_between_backwards(nn, F):
    layer = nn.Linear(20, 30)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    loss = layer(torch.ones(40, 20)).square().mean()
    loss.backward(retain_graph=True)
    optimizer.step()
    loss.backward()
    return layer.weight.grad


class _NoGradient(torch.autograd.Function):
    forward = staticmethod(lambda ctx, x: x * 1)
    backward = staticmethod(lambda ctx, dy: None)


def parameters_without_gradient(make, *shape):
    """Returns which parameters have no gradient when the model's result gets none: an optimizer skips those."""

    def program(nn, F):
        model = nn.Sequential(*make(nn))
        _NoGradient.apply(model(torch.randn(shape))).sum().backward()
        return [p.grad is None for p in model.parameters()]

    return program


WHAT_IS_SAVED = {
    "no gradient, linear": parameters_without_gradient(lambda nn: [nn.Linear(40, 50)], 30, 40),
    "no gradient, linear_relu": parameters_without_gradient(lambda nn: [nn.Linear(40, 50), nn.ReLU()], 30, 40),
    "no gradient, conv2d": parameters_without_gradient(lambda nn: [nn.Conv2d(1, 6, 5)], 16, 1, 28, 28),
    "no gradient, pooled": parameters_without_gradient(
        lambda nn: [nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)], 16, 1, 28, 28
    ),
    "no gradient, batch norm": parameters_without_gradient(
        lambda nn: [nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)], 16, 4, 12, 12
    ),
    "y += skip": gradient_after(lambda y: y.add_(1)),
    "y.data.mul_(0)": gradient_after(lambda y: y.data.mul_(0) is None or y),
    "dropout in place": dropout_in_place,
    "an eval pass, a train pass": two_modes_one_backward,
    "logits edited after the loss": edited_logits,
    "backward, step, backward": step_between_backwards,
}
