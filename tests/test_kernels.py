"""What all Triton kernels share: the backend's name and limits, launching, torch.compile's view."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from matrix import needs_triton

import torchext
from torchext import _backend
from torchext.nn import functional as F

if _backend.triton() is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

import triton
import triton.language as tl

from torchext.kernels import launch, tile

ROOT = Path(__file__).parent.parent


def without_interpreter(*command):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_torch_compile_sees_the_kernel_and_what_it_writes():
    graph = without_interpreter("tests/triton_seen_through.py")
    assert "triton_kernel_wrapper_functional" in graph and "tensors_to_clone = ['y']" in graph
    assert "torchext" not in graph


def test_without_the_interpreter_the_cpu_is_served_by_stock_and_the_route_says_why():
    script = (
        "import torch, torchext\n"
        "from torchext.nn import functional as F\n"
        "with torchext.backend('triton'), torchext.record_routes() as routes:\n"
        "    F.dropout(torch.ones(1000))\n"
        "print(routes[0].backend, routes[0].why)"
    )
    assert without_interpreter("-c", script) == "stock Triton needs a GPU, or TRITON_INTERPRET=1 before its import\n"


@needs_triton
def test_the_route_says_which_backend_served(on_triton):
    with torchext.record_routes() as routes:
        F.dropout(torch.ones(1000))
    assert [route.backend for route in routes] == ["triton"]


def test_an_empty_grid_launches_nothing():
    launch.launch(None, (0, 3), torch.empty(0))


def test_a_kernel_that_checks_targets_has_no_overflow_checks():
    kernel = mock.MagicMock()
    launch.launch(kernel, (1,), torch.empty(0))
    assert kernel[(1,)].call_args.kwargs["sanitize_overflow"] is False


def test_scratch_keeps_no_operand_alive():
    operand = mock.Mock(is_cuda=True, device="cpu")
    alive = weakref.ref(operand)
    launch.give_scratch(operand)
    del operand
    gc.collect()
    assert alive() is None


@triton.jit
def rounding_kernel(x, y, COUNT: tl.constexpr):
    i = tl.arange(0, COUNT)
    tl.store(y + i, tile.rounded(tl.load(x + i), y.dtype.element_ty))


@triton.jit
def dot_kernel(a, b, c, N: tl.constexpr):
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(c + i, tile.dot(tl.load(a + i), tl.load(b + i), tl.zeros([N, N], tl.float32), "ieee"))


@needs_triton
def test_bfloat16_is_rounded_to_nearest_even_as_torch_does(on_triton):
    bits = torch.as_tensor(np.random.default_rng(0).integers(0, 2**32, 1 << 12, dtype=np.uint32).view(np.float32))
    specials = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3.4e38, 1 + 2**-8, 1 + 3 * 2**-8, 1e-40]
    bits[: len(specials)] = torch.tensor(specials)
    y = torch.empty(bits.shape, dtype=torch.bfloat16)
    rounding_kernel[(1,)](bits, y, bits.numel())
    assert torch.equal(y.isnan(), bits.isnan())
    assert torch.equal(y[~bits.isnan()], bits.to(torch.bfloat16)[~bits.isnan()])


@needs_triton
def test_products_of_bfloat16_are_right(on_triton):
    a, b = torch.randn(2, 32, 32).to(torch.bfloat16)
    c = torch.empty(32, 32)
    dot_kernel[(1,)](a, b, c, 32)
    torch.testing.assert_close(c, a.float() @ b.float())
