"""The CUDA kernels of max_pool2d, run on csrc/simt: bits, order of threads, choice of kernel."""

import itertools
import subprocess

import pytest
import simt_kernels
import torch
from matrix import DTYPES, needs_simt
from max_pool2d_cases import NAN, WINDOWS, channels_last, run
from traffic import launches

from torchext import _backend

pytestmark = needs_simt


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [*WINDOWS, (2, 8, 0, 1, False), (1, 1, 0, 1, False)], ids=str)
def test_every_bit_is_that_of_the_cpu_kernels(dtype, window):
    for shape, last, dead in itertools.product(
        ((2, 3, 9, 16), (1, 8, 7, 10), (2, 6, 6, 7)), (False, True), (False, True)
    ):
        x = torch.randn(shape).mul(2).round().to(dtype)  # ties
        x.flatten()[::17] = NAN
        x = channels_last(x) if last else x
        for ours, cpu in zip(run("simt", x, window, last, dead), run("default", x, window, last, dead)):
            assert ours.stride() == cpu.stride()
            torch.testing.assert_close(ours, cpu, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_results_do_not_depend_on_the_order_of_threads_and_blocks(window, last):
    x = torch.randn(3, 4, 17, 24)
    x = channels_last(x) if last else x
    runs = []
    for seed in range(4):
        _backend.simt().seed(seed)
        runs.append(run("simt", x, window, last))
    assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other))


# Window, layout, width and channels; the kernels forward and backward, and the elements of a pack of 16-bit numbers.
CHOICES = [
    (WINDOWS[0], False, 32, 3, ("pool_pairs", "unpool_pairs"), 8),
    (WINDOWS[0], False, 28, 3, ("pool_pairs", "unpool_pairs"), 4),
    (WINDOWS[0], False, 14, 3, ("pool_pairs", "unpool_pairs"), 2),
    (WINDOWS[0], False, 15, 3, ("pool_windows", "unpool_patches"), 1),
    (WINDOWS[2], False, 16, 3, ("pool_windows", "unpool_patches"), 1),
    (WINDOWS[0], True, 15, 16, ("pool_windows", "unpool_patches"), 8),
    (WINDOWS[3], True, 15, 16, ("pool_windows", "unpool_gather"), 8),
    (WINDOWS[3], True, 16, 12, ("pool_windows", "unpool_gather"), 1),
    (WINDOWS[3], False, 16, 8, ("pool_windows", "unpool_gather"), 1),
    ((2, 8, 0, 1, False), False, 16, 8, ("pool_windows", "unpool_gather"), 1),
]


@pytest.mark.parametrize("window, last, w, c, kernels, wide", CHOICES)
def test_each_map_gets_its_kernels_in_one_launch_each(window, last, w, c, kernels, wide):
    for offset in (0, 1):
        x = torch.randn(2 * c * 6 * w + offset).to(torch.bfloat16)[offset:]
        x = x.view(2, 6, w, c).permute(0, 3, 1, 2) if last else x.view(2, c, 6, w)
        done = [launch["kernel"].split("<") for launch in launches(lambda x=x: run("simt", x, window, last))]
        pool = "pool_windows" if offset else kernels[0]
        assert [name.removesuffix("_kernel") for name, *_ in done] == [pool, "pool_indices", kernels[1], pool]
        widths = [int(rest[0].strip(">").split(", ")[1]) for _, *rest in done if rest]
        assert widths == [1 if offset else wide, wide, 1 if offset else wide]


def test_strides_and_dilations_beyond_31_bits():
    for last, huge in itertools.product((False, True), (2**31 - 1, 2**31, 2**40)):
        x = torch.randn(2, 8, 5, 6)
        x = channels_last(x) if last else x
        for window in ((2, huge, 0, 1, False), ((1, 2), 1, 0, (huge, 1), False)):
            for ours, cpu in zip(run("simt", x, window, last), run("default", x, window, last)):
                assert torch.equal(ours, cpu)


def test_division_by_multiplication_is_exact(tmp_path):
    source, output = simt_kernels.ROOT / "tests/csrc/divide.cu", tmp_path / "divide"
    flags = ["-O1", f"-I{simt_kernels.ROOT / 'csrc'}", *simt_kernels.SANITIZE]
    subprocess.run([*simt_kernels.COMPILE, *flags, source, "-o", output], check=True, timeout=120)
    subprocess.run([output], check=True, timeout=60)
