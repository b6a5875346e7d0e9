"""csrc/simt follows the CUDA guide and catches every planted fault."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matrix import needs_simt
from simt_kernels import COMPILE, ROOT, SANITIZE

import torchext
from torchext import _backend
from torchext.linear_relu import NATIVE

THREADS = 128
pytestmark = needs_simt

FAULTS = (
    "none",
    "no barrier",
    "overrun",
    "no wait",
    "early refill",
    "wrong mask",
    "own lane missing",
    "ended lane",
    "atomic",
    "divergent",
    "uneven",
    "unaligned",
    "assertion",
    "trap",
    "unwritten",
    "overrun dynamic",
    "never waits",
)
X = np.random.default_rng(0).standard_normal((8, THREADS)).astype(np.float32)


def run(kernels, fault, pieces=8):
    y = np.full_like(X, np.nan)
    if fault == "atomic":
        y[0, 0] = 0
    kernels.faulty(FAULTS.index(fault), y, X, pieces)
    return y


def test_correct_kernels_give_correct_results_in_any_order(scheduled):
    y = np.full_like(X, np.nan)
    scheduled.reverse(y, X)
    assert np.array_equal(y[0], X[0, ::-1])
    scheduled.pipeline(y, X, 8)
    assert np.array_equal(y, X[:, ::-1])
    scheduled.sum(y, X, 8)
    assert np.isclose(y[0, 0], X.sum(dtype=np.float64), rtol=1e-4)


def test_a_missing_barrier_gives_wrong_numbers(scheduled):
    assert not np.array_equal(run(scheduled, "no barrier")[0], X[0, ::-1])


def test_a_missing_wait_reads_poison(scheduled):
    assert np.isnan(run(scheduled, "no wait")).any()


def test_a_buffer_refilled_while_others_read_it_gives_wrong_numbers(scheduled):
    assert not np.array_equal(run(scheduled, "early refill"), X[:, ::-1])


def test_an_unwritten_element_keeps_its_poison(scheduled):
    assert np.isnan(run(scheduled, "unwritten")[0]).sum() == 1


def test_float_atomics_change_the_bits(kernels):
    sums = set()
    for seed in range(8):
        kernels.seed(seed)
        sums.add(run(kernels, "atomic")[0, 0])
    assert len(sums) > 1


# The sanitizer stops the process at the overrun itself, before the fence is checked.
LOUD = {
    "overrun": r"a write \d+ bytes beyond shared memory of 512 bytes",
    "overrun dynamic": r"a write \d+ bytes before shared memory of 64 bytes",
    "never waits": r"without waiting for its asynchronous copies",
    "wrong mask": r"deadlock: .* waits in __shfl_sync",
    "own lane missing": r"the mask 0xffff does not name the calling lane \d+",
    "ended lane": r"names lanes that have ended|ends while others of its warp wait for it",
    "divergent": r"at the barrier of .*:\d+ while others wait at that of .*:\d+",
    "uneven": r"deadlock: .* (__syncthreads|__syncwarp)",
    "unaligned": r"a load of 8 bytes at .*, which is not a multiple",
    "assertion": r"thread \(5, 0, 0\): assertion failed: i != 5",
    "trap": r"thread \(5, 0, 0\): trap",
}


@pytest.mark.parametrize("fault", [f for f in LOUD if not (SANITIZE and f.startswith("overrun"))])
def test_what_the_guide_forbids_stops_the_kernel_and_names_it(scheduled, fault):
    with pytest.raises(RuntimeError, match=rf"simt: \w+_kernel<.*>, block \(0, 0, 0\): .*({LOUD[fault]})"):
        run(scheduled, fault)
    y = np.full_like(X, np.nan)  # and the next launch is unaffected
    scheduled.reverse(y, X)
    assert np.array_equal(y[0], X[0, ::-1])


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("__shared__ float x[3];", "use shared<T>"),
        ("__nanosleep(1);", "__nanosleep"),
        ("__reduce_add_sync(1, 1);", "__reduce_add_sync"),
        ('asm volatile("bar.sync 1, 64;");', "bar"),
    ],
)
def test_what_is_not_modelled_does_not_build(line, complaint, tmp_path):
    source = tmp_path / "kernel.cu"
    source.write_text(
        f'#include "{ROOT}/csrc/cuda/launch.cuh"\n__global__ void kernel() {{ {line} }}\nvoid (*k)() = kernel;'
    )
    built = subprocess.run(
        [*COMPILE, "-c", str(source), "-o", str(tmp_path / "kernel.o")], capture_output=True, text=True
    )
    assert built.returncode != 0 and complaint in built.stderr


@pytest.mark.skipif(not SANITIZE, reason="needs the sanitizers: make sanitize")
@pytest.mark.parametrize("fault, size", [("overrun", 128), ("overrun dynamic", 128), ("none", 127)])
def test_the_sanitizer_stops_an_overrun_directly(kernels, fault, size):
    script = f"""
import ctypes, numpy as np
x, y = np.zeros(128, np.float32), np.zeros({size}, np.float32)
kernels = ctypes.CDLL({kernels.loaded._name!r})
kernels.faulty({FAULTS.index(fault)}, *(a.ctypes.data_as(ctypes.c_void_p) for a in (y, x)), 1)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode != 0 and "AddressSanitizer" in ran.stderr


def test_the_seed_decides_the_order_of_threads_and_blocks(kernels):
    orders = []
    for seed in (1, 2, 1):
        kernels.seed(seed)
        y = np.zeros(4 * 64, np.int32)
        kernels.order(y, 4, 64)
        orders.append(y)
        assert sorted(y) == list(range(256)) and list(y) != list(range(256))
    assert np.array_equal(orders[0], orders[2]) and not np.array_equal(orders[0], orders[1])


@pytest.mark.parametrize("want_dx", [False, True])
def test_traffic_is_counted_per_launch(want_dx):
    """The masked gradient is written for dx; for db alone it is only summed: three rows of sums, one a block."""
    m, n = 300, 64
    simt = _backend.simt()
    x, w, y = torch.randn(m, 8), torch.randn(n, 8), torch.randn(m, n)
    simt.record(True)
    torch.ops.torchext.linear_backward.simt(y, x, w, y, NATIVE, want_dx, False, True)
    mask, add, *_ = simt.launches()
    simt.record(False)
    assert (mask["kernel"], add["kernel"]) == ("relu_backward_kernel<float, 4>", "add_rows_kernel<float>")
    assert mask["read"] == 2 * m * n * 4 and mask["written"] == want_dx * m * n * 4 + 3 * n * 4
    assert add["read"] == 3 * n * 4 and add["written"] == n * 4


def test_compiled_code_follows_the_backend():
    x, w = torch.randn(3, 4), torch.randn(5, 4)
    torch._dynamo.reset()
    ran = []

    def note(graph, inputs):
        ran.extend(str(node.target) for node in graph.graph.nodes if "linear_relu" in str(node.target))
        return graph

    compiled = torch.compile(torchext.nn.functional.linear_relu, fullgraph=True, backend=note)
    want = torchext.nn.functional.linear_relu(x, w)
    for name in ("native", "simt", "native"):
        with torchext.backend(name), torchext.record_routes() as routes:
            torch.testing.assert_close(compiled(x, w), want)
            torchext.nn.functional.linear_relu(x, w)
        assert routes[-1].backend == name
    assert ran[:2] == ["torchext.linear_relu.default", "torchext.linear_relu.simt"]


def test_a_backend_this_build_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(_backend, "simt", lambda: None)
    with pytest.raises(ValueError, match="TORCHEXT_SIMT=1"), torchext.backend("simt"):
        pass
    assert "simt" not in _backend.backends()
