"""Every Triton kernel binds and is tuned, compiled and launched, on a simulated device (fake_driver.py)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchext import _backend
from torchext._conv2d_plan import CONTIGUOUS_ON_GPU

if _backend.triton() is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if shutil.which(os.getenv("CC", "cc")) is None:
    pytest.skip("needs a C compiler, as Triton does", allow_module_level=True)
if torch.cuda.is_available():
    pytest.skip("a device is available: the tests of each op run there", allow_module_level=True)

ROOT = Path(__file__).parent.parent
DTYPES = ("float64", "float32", "bfloat16", "float16")
# Each kernel in one dtype: programs of triton_driven.py, by how their names begin. Float64 where products are small, as
# compiler passes have failed only for it; 16 bits for tuned tiles and TMA.
QUICK = (
    *("linear_relu bfloat16", "at size 0: linear_relu bfloat16", "linear_cross_entropy float32", "conv2d float16"),
    *("conv2d_relu_max_pool2d float64", "cross_entropy 10 float32", "cross_entropy 40000 float32"),
    *("cross_entropy planes float32", "dropout float32", "max_pool2d 2x2 float32", "max_pool2d 3x3 float32"),
    "max_pool2d indices float32",
)


def driven(folder, *options):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "tests/triton_driven.py"), str(folder), *options]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def faults(found):
    """What a device would have refused, or what would spill to local memory there, in words."""
    wrong = [f"{f['at']}: {f.get('kernel')} {f.get('config')} {f['error']}" for f in found["failed"]]
    # A few words spilled outside the loops cost nothing: 48 bytes in float16 weight gradients of 16 channels. Each
    # float64 takes two registers, and its speed matters less on a GPU.
    few = lambda row: 512 if "float64" in row["dtypes"] else 48
    spilled = [row for row in found["loaded"] if row["default"] and row["local"] > few(row)]
    wrong += [f"{row['at']}: {row['kernel']} {row['options']} spills {row['local']} bytes" for row in spilled]
    return wrong + [f"stock served {why}" for why in found["stock"] if not why.endswith(CONTIGUOUS_ON_GPU)]


def test_a_device_would_accept_every_kernel_in_one_dtype(tmp_path):
    found = driven(tmp_path, "--dtype", *DTYPES, "--only", *QUICK)
    assert faults(found) == []
    assert set(found["kernels"]) == set(found["launched"])


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_device_would_accept_every_kernel(dtype, tmp_path):
    found = driven(tmp_path, "--dtype", dtype, "--all")
    assert faults(found) == []
    assert set(found["kernels"]) == set(found["launched"])


def test_tuning_results_are_read_from_disk_the_next_time(tmp_path):
    once, again = driven(tmp_path, "--dtype", "bfloat16", "--only", "at size 0: linear_relu", "--again")["timed"]
    assert once == again == 2


def test_every_planted_fault_is_found(tmp_path):
    found = {}
    for failure in driven(tmp_path, "--faults")["failed"]:
        found.setdefault(failure["at"].split(":")[0], set()).add(failure["error"].split(", Hardware")[0])
    needs = "OutOfResources: out of resource: shared memory, Required: "
    assert found == {
        "too_few": {"TypeError: dynamic_func() missing 1 required positional argument: 'fill'"},
        "too_large": {needs + "327680"},
        "too_large_candidate": {needs + "393280"},
        "too_many": {"RuntimeError: Triton Error [CUDA]: invalid argument"},
        "on_the_host": {"ValueError: Pointer argument cannot be accessed from Triton (cpu tensor?)"},
    }
