"""Builds torchext._C on torch's stable ABI: CPU kernels always, CUDA where it can be compiled.

USE_CUDA=1 demands the CUDA half, USE_CUDA=0 leaves it out; unset: built when torch has CUDA and a toolkit is found.
TORCHEXT_SIMT=1 builds torchext._simt too: the CUDA kernels run on the CPU, thread by thread, for the tests (`make` sets
it, wheels do not ship it). SANITIZE=1 builds only torchext._simt_sanitized, the same under AddressSanitizer and UBSan.
"""

import os
import re
import shutil
import subprocess
from glob import glob
from pathlib import Path

import torch
from setuptools import setup


def find_toolkit():
    """Sets CUDA_HOME to the toolkit nvcc belongs to: torch takes the folder above it, wrong where nvcc is a wrapper."""
    if "CUDA_HOME" in os.environ or not shutil.which("nvcc"):
        return
    command = ["nvcc", "--dryrun", "-x", "cu", "-c", "-o", os.devnull, os.devnull]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    top = re.search(r"^#\$ TOP=(.+)$", told, re.MULTILINE)
    if top:
        os.environ["CUDA_HOME"] = str(Path(top[1]).resolve())


find_toolkit()
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension  # noqa: E402

TORCH_TARGET = "0x020a000000000000"  # 2.10: the oldest torch the binary loads on
CXX_FLAGS = [
    "-O3",
    "-g0",
    "-std=c++20",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wno-psabi",  # vector arguments never cross a library boundary
    "-Wno-ignored-attributes",
    "-Wno-unknown-pragmas",
    "-Wno-uninitialized",  # GCC's own AVX-512 intrinsics start from undefined registers
    "-Wno-maybe-uninitialized",
    "-Wno-array-bounds",
]
HEADERS = glob("csrc/**/*.h", recursive=True)
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


def want_cuda():
    """Whether to build the CUDA half, and the reason, which the build prints."""
    choice, sources = os.getenv("USE_CUDA"), glob("csrc/cuda/*.cu")
    if choice == "0":
        return False, "USE_CUDA=0"
    missing = [
        what
        for what, there in (
            ("CUDA kernel in csrc/cuda", bool(sources)),
            ("torch built with CUDA", torch.version.cuda is not None),
            ("CUDA toolkit", CUDA_HOME is not None),
        )
        if not there
    ]
    if missing and choice == "1":
        raise SystemExit(f"torchext: USE_CUDA=1, but this build lacks {' and '.join(missing)}")
    if missing:
        return False, f"no {' and no '.join(missing)}"
    if not torch.cuda.is_available():  # torch asks the GPU which targets to build for
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0a;10.0+PTX")
    return True, f"torch has CUDA {torch.version.cuda}, toolkit at {CUDA_HOME}"


def extension():
    cuda, reason = want_cuda()
    print(f"torchext: building for CPU{' and CUDA' if cuda else ' only'} ({reason})", flush=True)
    flags = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *(["-DTORCHEXT_CUDA", "-DUSE_CUDA"] if cuda else [])]
    sources = [*glob("csrc/*.cpp"), *glob("csrc/cpu/*.cpp"), *(glob("csrc/cuda/*.cu") if cuda else [])]
    return (CUDAExtension if cuda else CppExtension)(
        "torchext._C",
        sorted(sources),
        depends=HEADERS,
        py_limited_api=True,
        extra_compile_args={"cxx": [*CXX_FLAGS, *flags], "nvcc": ["-O3", "-std=c++20", *flags]},
    )


def simt_extension(name, *flags, link=()):
    """Every op that has a csrc/cuda/<op>.cu: its glue, and that .cu as C++."""
    sources = ["csrc/simt/module.cpp"]
    for kernels in sorted(Path("csrc/cuda").glob("*.cu")):
        wrapper = Path("build/simt", f"{kernels.stem}_kernels.cpp")
        text = f'#include "{kernels.resolve()}"\n'
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        if not wrapper.exists() or wrapper.read_text() != text:
            wrapper.write_text(text)
        sources += [f"csrc/{kernels.stem}.cpp", str(wrapper)]
    keep = [flag for flag in CXX_FLAGS if flag not in ("-O3", "-g0")]
    flags = [
        *keep,
        "-g",
        "-DTORCHEXT_SIMT",
        "-UNDEBUG",
        f"-DSIMT_MODULE={name}",
        "-ftrivial-auto-var-init=pattern",
        *flags,
    ]
    return CppExtension(
        f"torchext.{name}",
        sources,
        depends=[*HEADERS, *glob("csrc/cuda/*")],
        include_dirs=[str(Path("csrc/simt").resolve())],
        py_limited_api=True,
        extra_compile_args={"cxx": [*flags, f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]},
        extra_link_args=list(link),
    )


def extensions():
    if os.getenv("SANITIZE") == "1":
        return [simt_extension("_simt_sanitized", "-O1", *SANITIZERS, link=SANITIZERS)]
    return [extension(), *([simt_extension("_simt", "-O2")] if os.getenv("TORCHEXT_SIMT") == "1" else [])]


class Build(BuildExtension):
    """Each extension's objects in a folder of their own: two compile the same glue."""

    def build_extension(self, ext):
        folder = self.build_temp
        self.build_temp = os.path.join(folder, ext.name)
        super().build_extension(ext)
        self.build_temp = folder


setup(
    packages=["torchext", "torchext.demo", "torchext.nn", "torchext.tuning", "torchext.kernels"],
    package_dir={"torchext.kernels": "kernels"},
    package_data={"torchext": ["py.typed", "routes/*.json"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
