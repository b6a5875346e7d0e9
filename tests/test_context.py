"""backend(), record_routes() and explain() apply to their own thread or task only, as torch's modes do."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import torchext
from torchext import _chosen, nn
from torchext.nn import functional as F

X, W = torch.randn(128, 256), torch.randn(120, 256)


def served():
    with torchext.record_routes() as routes:
        F.linear_relu(X, W)
    return [route.backend for route in routes]


def in_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_another_thread_starts_with_auto():
    with torchext.backend("stock"):
        assert served() == ["stock"] and in_thread(_chosen.name) == "auto"
        assert in_thread(served) == ["native"]
    assert _chosen.name() == "native"  # the fixture's


def test_overlapping_threads_leave_everything_as_it_was():
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    names = {}

    def first():
        with torchext.backend("native"):
            first_in.set()
            second_in.wait(10)
            names["first within"] = _chosen.name()
        names["first after"] = _chosen.name()
        first_out.set()

    def second():
        first_in.wait(10)
        with torchext.backend("stock"):
            second_in.set()
            first_out.wait(10)
            names["second within"] = _chosen.name()
        names["second after"] = _chosen.name()

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(first), pool.submit(second)]:
            future.result()
    assert names == {
        "first within": "native", "first after": "auto", "second within": "stock", "second after": "auto",
    }  # fmt: skip
    assert in_thread(_chosen.name) == "auto"


def test_interleaved_tasks_each_have_their_own():
    async def task(name):
        seen = []
        with torchext.backend(name), torchext.record_routes() as routes:
            for _ in range(3):
                await asyncio.sleep(0)
                F.linear_relu(X, W)
                seen.append(_chosen.name())
        return seen, [route.backend for route in routes]

    async def both():
        return await asyncio.gather(task("native"), task("stock"))

    assert asyncio.run(both()) == [(["native"] * 3, ["native"] * 3), (["stock"] * 3, ["stock"] * 3)]


def test_a_record_holds_no_call_of_another_thread():
    with torchext.record_routes() as routes:
        in_thread(lambda: F.linear_relu(X, W))
    assert routes == []


def test_explain_records_its_own_thread_alone():
    model, started, done = nn.Sequential(nn.Linear(256, 120), nn.ReLU()), threading.Event(), threading.Event()

    class Waits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            started.set()
            done.wait(10)
            return self.model(x)

    with ThreadPoolExecutor(1) as pool:
        explanation = pool.submit(torchext.explain, Waits(), X)
        started.wait(10)
        model(X)
        done.set()
    assert [(choice.layer, choice.op) for choice in explanation.result().choices] == [("model.0", "linear_relu")]


@pytest.mark.parametrize("backend", [b for b in ("simt", "triton") if b in torchext._backend.backends()])
def test_backward_uses_the_backend_of_forward_in_any_thread(backend, trace):
    x = X.clone().requires_grad_()
    with torchext.backend(backend):
        y = F.linear_relu(x, W)

    def backward():
        with trace() as ops:
            y.sum().backward()
        return [op for op in ops if "torchext" in op]

    assert in_thread(backward) == [f"torchext.linear_backward.{backend}"]


def test_ours_runs_under_a_default_device_and_a_checkpoint():
    """A mode that only makes tensors, and hooks that only drop saved ones, observe no call."""
    x = X.clone().requires_grad_()
    with torch.device("cpu"):
        assert served() == ["native"]
    with torchext.record_routes() as routes:
        checkpoint(lambda x: F.linear_relu(x, W), x, use_reentrant=False).sum().backward()
    assert [route.backend for route in routes] == ["native"] * 2  # forward, and once more in backward


def test_a_compiled_function_is_retraced_for_another_backend():
    traced = []

    def note(graph, inputs):
        traced.append({str(node.target) for node in graph.graph.nodes if "torchext" in str(node.target)})
        return graph.forward

    compiled = torch.compile(lambda x, w: F.linear_relu(x, w), backend=note)
    for name in ("native", "stock", "native"):
        with torchext.backend(name):
            compiled(X, W)
    assert traced == [{"torchext.linear_relu.default"}, set()]
