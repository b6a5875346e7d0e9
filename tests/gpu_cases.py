"""Fixtures of tests about GPUs: cuDNN's flags, and CPU tensors that claim to be on a GPU."""

import contextlib

import pytest
import torch

import torchext
from torchext import _gpu, _op
from torchext._table import ANY, FAMILIES, ROUTES, Row


@pytest.fixture
def cudnn():
    """Sets cuDNN's flags within a test, as torch allows once its own test tools are imported."""
    with contextlib.ExitStack() as stack:
        kept = {"enabled": True, "deterministic": True, "allow_tf32": False}
        yield lambda **flags: stack.enter_context(torch.backends.cudnn.flags(**(kept | flags)))


def route(monkeypatch, op, *rows):
    """The family of a GPU with these rows alone: classes, the size from which it is the route, and the route."""
    family = FAMILIES[op, "cuda"]
    monkeypatch.setattr(family, "steps", list(family.steps))
    monkeypatch.setattr(family, "stock_to", family.stock_to)
    family.clear()
    for when, size, name in rows:
        other = ROUTES[family.otherwise]
        steps = ((ANY, name),) if size <= 0 else ((size - 1, other), (ANY, name)) if size < ANY else ((ANY, other),)
        family.fill(Row(op, "cuda", {key: [value] for key, value in when.items()}, "", steps))
    family.settle()


@pytest.fixture
def gpu(monkeypatch):
    """Every tensor claims to be on a GPU, and the CPU's kernels stand in for the GPU's; "auto" decides, no capture."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda t: True), raising=False)
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda t: False), raising=False)
    for stem in _op.OPS:
        if stem not in _op.CPU_ONLY:
            monkeypatch.setitem(_op.GPU, stem, "native")
    monkeypatch.setattr(_gpu, "_is_capturing", lambda: False)
    with torchext.backend("auto"):
        yield monkeypatch
