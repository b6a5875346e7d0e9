"""The program run under compute-sanitizer agrees with stock: on a GPU, or on csrc/simt and Triton's interpreter."""

import sys
from pathlib import Path

import pytest
import torch
from matrix import GPU, TRITON, on_device_of

import torchext
from torchext import _backend, _op

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench import gpu_steps

HERE = [
    name
    for name, there in (("native", GPU and "native" in _op.GPU.values()), ("simt", _backend.simt()), ("triton", TRITON))
    if there
]


@pytest.mark.parametrize("backend", HERE)
def test_every_step_is_served_by_the_backend_and_agrees_with_stock(backend):
    with on_device_of("cuda" if backend == "native" else backend):
        device = torch.empty(0).device
    for step in gpu_steps.steps(torch.float32, device):
        if "dropout" in step.name:
            continue  # its mask is not stock's
        with torchext.backend("stock"):
            want = step.run()
        with torchext.backend(backend), torchext.record_routes() as routes:
            got = step.run()
        assert {route.backend for route in routes} == {backend}, step.name
        for ours, stock in zip(got, want):
            torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)
