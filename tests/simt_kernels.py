"""tests/csrc/simt_kernels.cu, built against csrc/simt without torch and called with NumPy arrays."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
CXX = os.getenv("CXX", "g++")
INCLUDES = [f"-I{ROOT / 'csrc/simt'}", f"-I{Path(torch.__file__).parent / 'include'}"]
COMPILE = [CXX, "-std=c++20", "-DTORCHEXT_SIMT", *INCLUDES, "-Wall", "-Wno-unknown-pragmas", "-x", "c++"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"] if os.getenv("SANITIZE") == "1" else []

needs_compiler = pytest.mark.skipif(shutil.which(CXX) is None, reason=f"needs a C++ compiler: {CXX} is not here")


class Kernels:
    """tests/csrc/simt_kernels.cu, built against csrc/simt: calls raise what the kernels threw."""

    def __init__(self, library):
        self.loaded = ctypes.CDLL(str(library))

    def __getattr__(self, name):
        function = getattr(self.loaded, name)
        function.restype = ctypes.c_char_p

        def call(*arguments):
            thrown = function(
                *(a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in arguments)
            )
            if thrown is not None:
                raise RuntimeError(thrown.decode())

        return call

    def seed(self, number):
        self.loaded.seed.restype = None
        self.loaded.seed(ctypes.c_uint64(number))


def build(library):
    source = ROOT / "tests/csrc/simt_kernels.cu"
    subprocess.run([*COMPILE, *SANITIZE, "-O1", "-g", "-fPIC", "-shared", str(source), "-o", str(library)], check=True)
    return Kernels(library)
