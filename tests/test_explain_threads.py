"""explain() in two threads: each records the calls of its own model under the names of its own layers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

import torchext
from torchext import nn


class Waits(nn.Module):
    def __init__(self, barrier):
        super().__init__()
        self.barrier = barrier

    def forward(self, x):
        self.barrier.wait(timeout=60)
        return x


def explained(model):
    with torchext.backend("native"):
        return [(c.layer, c.op) for c in torchext.explain(model, torch.randn(20, 30)).choices]


def model_of(barrier, *layers):
    return nn.Sequential(Waits(barrier), *layers, Waits(barrier), nn.Linear(30, 30), Waits(barrier))


def test_two_models_in_two_threads():
    barrier = threading.Barrier(2)
    models = model_of(barrier, nn.Linear(30, 30)), model_of(barrier, nn.Linear(30, 30), nn.ReLU())
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(explained, models)
    assert first == [("1", "linear"), ("3", "linear")]
    assert second == [("1", "linear_relu"), ("4", "linear")]


def test_one_model_in_two_threads():
    """Linear only: a Sequential joins layers only while a single explain observes it."""
    model = model_of(threading.Barrier(2), nn.Linear(30, 30))
    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(explained, [model, model])] == [[("1", "linear"), ("3", "linear")]] * 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert explained(nn.Linear(30, 30)) == [("", "linear")]
