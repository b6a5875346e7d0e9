"""A simulated H200: Triton binds, specialises, tunes, compiles and launches as on a real one, and nothing runs.

`install()` comes before the first import of torchext.kernels and serves the whole process: it takes every tensor for
one on the device, and puts tests/fake_cuda.c in the place of libcuda.so.1, so that Triton's own driver, its autotuner
and its launchers are what runs. A kernel's registers and local memory are what its cubin says.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from torch import library

NVIDIA = Path(triton.__file__).parent / "backends/nvidia"
launching: Launch | None = None
timed = 0  # configurations that the autotuner ran to the end
SOURCE = Path(__file__).with_name("fake_cuda.c")


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory of the cubin's only kernel; its shared memory is all dynamic."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [NVIDIA / "bin/cuobjdump", "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    number = lambda name: int(re.findall(rf"\b{name}:(\d+)", text)[0])
    return number("REG"), number("STACK") + number("LOCAL")


def _library(folder: Path) -> ctypes.CDLL:
    """libcuda.so.1, built in `folder`; once it is loaded, later loads by that name find it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "libcuda.so.1"
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", f"-I{NVIDIA / 'include'}"]
    subprocess.run([*command, "-Wl,-soname,libcuda.so.1", str(SOURCE), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _every_tensor_is_on_the_device() -> None:
    torch.Tensor.is_cuda, torch.Tensor.is_cpu = property(lambda self: True), property(lambda self: False)
    properties = SimpleNamespace(multi_processor_count=132, major=9, minor=0, name="NVIDIA H200")
    torch.cuda.get_device_properties = lambda device=None: properties
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    torch.cuda.current_device = lambda: None  # as x.device.index of every tensor here
    original = library.Library.impl

    def impl(self, name, function, key="", **options):
        original(self, name, function, key, **options)
        if self.ns == "torchext" and key == "CUDA":
            original(self, name, function, "CPU", **options)

    library.Library.impl = impl


def install(folder: Path) -> ctypes.CDLL:
    """Keeps builds and cubins in `folder`, not in the user's cache, which would keep the made-up times as well."""
    os.environ["TRITON_CACHE_DIR"] = str(folder / "cache")
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    cuda = _library(folder)
    _every_tensor_is_on_the_device()
    from triton.backends.nvidia import driver as nvidia

    class Driver(nvidia.CudaDriver):
        def __init__(self):
            super().__init__()
            self.get_current_device, self.set_current_device = lambda: 0, lambda device: None
            self.get_current_stream = lambda device: 0
            load = self.utils.load_binary

            def load_binary(name, cubin, shared, device):
                registers, local = usage(cubin)
                if launching is not None:
                    launching.used = {"registers": registers, "local": local, "shared": shared}
                cuda.fake_kernel(registers, local)
                return load(name, cubin, shared, device)

            self.utils.load_binary = load_binary

        def get_benchmarker(self):
            def benchmark(call, quantiles, **options):
                global timed
                call()
                timed += 1
                return [1.0] * len(quantiles)

            return benchmark

    triton.runtime.driver.set_active(Driver())
    return cuda


@dataclass
class Launch:
    """An attempted launch. `config` is "" for a kernel that is not tuned, "chosen" where the autotuner chose."""

    kernel: str
    config: str
    default: bool  # what runs before anything is tuned
    args: tuple
    options: dict
    used: dict | None = None  # bytes and registers, where the kernel was loaded by it
    error: Exception | None = None


@contextlib.contextmanager
def watched(report: Callable[[Launch], None]) -> Iterator[None]:
    """Within the block every launch is reported, and the program goes on where one fails.

    Each configuration of a tuned kernel is launched, then the autotuner has its way.
    """
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    plain, tuned = JITFunction.run, Autotuner.run

    def attempt(run, kernel, config, default, args, options):
        global launching
        launching = Launch(kernel.fn.__name__, str(config), default, args, options)
        try:
            run(*args, **options)
        except Exception as error:
            launching.error = error
        report(launching)
        launching = None

    def run_plain(self, *args, **options):
        attempt(functools.partial(plain, self), self, "", True, args, options)

    def run_tuned(self, *args, **options):
        JITFunction.run = plain  # the autotuner must see what fails
        for number, config in enumerate(self.configs):
            run = functools.partial(plain, self.fn)
            attempt(run, self.fn, config, number == 0, args, options | config.all_kwargs())
        attempt(functools.partial(tuned, self), self.fn, "chosen", False, args, options)
        JITFunction.run = run_plain

    JITFunction.run, Autotuner.run = run_plain, run_tuned
    try:
        yield
    finally:
        JITFunction.run, Autotuner.run = plain, tuned
