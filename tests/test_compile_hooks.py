"""Hooks on the layers of a model under torch.compile(backend="torchext"): they see, and change, what stock's do."""

import pytest
import torch
from torch import nn

import torchext

LAYERS = ("conv", "relu", "pool", "norm", "relu of norm", "linear", "relu of linear")
POSITIONS = (0, 1, 2, 3, 4, 7, 8)


def model():
    torch.manual_seed(0)
    convolved = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*convolved, nn.Flatten(), nn.Linear(64, 8), nn.ReLU())


HOOKS = {
    "keeps the result": ("register_forward_hook", lambda seen, m, i, o: seen.append(o)),
    "keeps its values": ("register_forward_hook", lambda seen, m, i, o: seen.append(o.detach())),
    "keeps a view": ("register_forward_hook", lambda seen, m, i, o: seen.append(o[0])),
    "gives another result": ("register_forward_hook", lambda seen, m, i, o: o * 2),
    "changes the gradient": ("register_forward_hook", lambda seen, m, i, o: o.register_hook(lambda g: 2 * g) and None),
    "keeps the input": ("register_forward_pre_hook", lambda seen, m, i: seen.append(i[0])),
    "gives another input": ("register_forward_pre_hook", lambda seen, m, i: (i[0] * 2,)),
    "sees the gradient": ("register_full_backward_hook", lambda seen, m, gi, go: seen.append(go[0].clone())),
    "gives another gradient": ("register_full_backward_pre_hook", lambda seen, m, go: (go[0] * 2,)),
}


def outcome(kind, position, backend):
    torch._dynamo.reset()
    watched, seen = model(), []
    register, hook = HOOKS[kind]
    getattr(watched[position], register)(lambda *arguments: hook(seen, *arguments))
    x = torch.randn(5, 1, 18, 18, generator=torch.Generator().manual_seed(1))
    y = torch.compile(watched, backend=backend)(x) if backend else watched(x)
    y.square().sum().backward()
    return (
        y.detach(),
        [s.detach() for s in seen],
        [s.requires_grad for s in seen],
        [p.grad for p in watched.parameters()],
    )


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("position", POSITIONS, ids=LAYERS)
def test_a_hook_on_a_layer_of_a_compiled_model(position, kind):
    with torchext.backend("native"):
        got = outcome(kind, position, "torchext")
    torch.testing.assert_close(got, outcome(kind, position, None), rtol=1e-3, atol=1e-3)
