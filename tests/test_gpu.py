"""What only a GPU can show: graphs, streams, no synchronisation, the same mask on every device."""

import sys
from pathlib import Path

import pytest
import torch

import torchext
from torchext import _backend, _op
from torchext.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench import gpu_steps

if not (torch.cuda.is_available() and "native" in _op.GPU.values()):
    pytest.skip("needs a GPU and a build with CUDA", allow_module_level=True)

BACKENDS = ["native", *(["triton"] if _backend.triton() else [])]
NAMES = [step.name for step in gpu_steps.steps(torch.float32, "cuda")]


@pytest.fixture(params=BACKENDS)
def backend(request):
    with torchext.backend(request.param):
        yield request.param


@pytest.fixture(params=range(len(NAMES)), ids=NAMES)
def step(request):
    return list(gpu_steps.steps(torch.float32, "cuda"))[request.param].run


def test_a_captured_step_replays_with_the_same_results(backend, step):
    torch.cuda.manual_seed(1)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()  # tunes, allocates
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    torch.cuda.manual_seed(7)
    graph.replay()
    replayed = [t.clone() for t in captured]
    torch.cuda.manual_seed(7)
    for ours, want in zip(replayed, step()):
        assert torch.equal(ours, want)


def test_a_replayed_dropout_draws_a_new_mask(backend):
    x = torch.ones(1 << 16, device="cuda")
    F.dropout(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = F.dropout(x)
    graph.replay()
    first = y.clone()
    graph.replay()
    assert not torch.equal(first, y)


def test_no_step_waits_for_the_device(backend, step):
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_runs_on_the_current_stream(backend, step):
    torch.cuda.manual_seed(3)
    want = step()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # work on another stream would overtake this
        torch.cuda.manual_seed(3)
        got = step()
    stream.synchronize()
    for ours, other in zip(got, want):
        assert torch.equal(ours, other)


def test_every_run_gives_the_same_bits(backend, step):
    def run():
        torch.cuda.manual_seed(5)
        return step()

    first = run()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(run(), first))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 255, 4097, 1 << 20])
def test_the_mask_is_the_cpus(backend, dtype, count):
    arguments = (0.3, 2.0, 0.0, 0.0)
    seed = torch.tensor(1234567890123)
    want = torch.ops.torchext.dropout.default(torch.ones(count, dtype=dtype), seed, *arguments)
    op = getattr(torch.ops.torchext.dropout, "triton" if backend == "triton" else "default")
    got = op(torch.ones(count, dtype=dtype, device="cuda"), seed.cuda(), *arguments)
    assert torch.equal(got.cpu(), want)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_tensors_device_is_the_one_used(backend):
    x = torch.randn(64, 32, device="cuda:1")
    assert F.linear_relu(x, torch.randn(16, 32, device="cuda:1")).device.index == 1
    assert torch.cuda.current_device() == 0
