"""Which layers of a Sequential are looked at together on a GPU, tested without one."""

import torch

import torchext
from torchext import _gpu


def image(*shape):
    return torch.randn(shape).requires_grad_()


def joined(monkeypatch, first, *rest, x):
    """How many modules of a Sequential are called themselves: joined ones are not."""
    calls = []
    layers = [first, *rest]
    monkeypatch.setattr(torchext.sequential, "_served", lambda layers, input: calls.append(len(layers)) or input)
    torchext.nn.Sequential(*layers)(x)
    return calls


def test_eager_training_looks_for_joined_layers_only_where_one_can_be_ours(gpu):
    nn, large = torchext.nn, torch.randn(1 << 10, 1 << 8)
    linear = lambda: (nn.Linear(1 << 8, 1 << 8), nn.ReLU())
    assert joined(gpu, *linear(), x=large[:4]) == [] and joined(gpu, *linear(), x=large) == [2]
    few, many = nn.Conv2d(3, 8, 3), nn.Conv2d(64, 8, 3)
    assert joined(gpu, few, nn.ReLU(), nn.MaxPool2d(2), x=image(2, 3, 8, 8)) == [3]
    assert joined(gpu, many, nn.ReLU(), nn.MaxPool2d(2), x=image(2, 64, 8, 8)) == []
    with torch.no_grad():
        assert joined(gpu, *linear(), x=large[:4]) == [2]
    gpu.setattr(_gpu, "_is_capturing", lambda: True)
    assert joined(gpu, *linear(), x=large[:4]) == [2]
