"""The CPU kernels compile for 64-bit Arm, without x86 intrinsics, and with another compiler."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
KERNELS = sorted((ROOT / "csrc/cpu").glob("*.cpp"))
COMPILERS = ("aarch64-linux-gnu-g++", "clang++")


@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_kernels_compile_without_x86_intrinsics(compiler, source):
    """-fsyntax-only instantiates every template; a minute of code generation would find no more."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed (apt-get install g++-aarch64-linux-gnu clang)")
    include = Path(torch.__file__).parent / "include"
    command = [compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Werror", "-Wno-psabi", "-Wno-ignored-attributes"]
    command += ["-Wno-unknown-warning-option", "-Wno-unused-function", f"-I{include}", str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
