"""The program that compute-sanitizer watches on a GPU runs here too: on csrc/simt, and Triton's kernels interpreted."""

import sys
from pathlib import Path

import pytest
import torch

import torchext
from torchext import _route

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench import gpu_steps

HERE = [name for name, there in (("simt", _route.simt()), ("triton", _route.triton())) if there]


@pytest.mark.parametrize("backend", HERE)
def test_every_step_is_served_by_the_backend_and_agrees_with_stock(backend):
    for step in gpu_steps.steps(torch.float32, "cpu"):
        if "dropout" in step.name:
            continue  # its mask is not stock's
        with torchext.backend("stock"):
            want = step.run()
        with torchext.backend(backend), torchext.record_routes() as routes:
            got = step.run()
        assert {route.backend for route in routes} == {backend}, step.name
        for ours, stock in zip(got, want):
            torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)
