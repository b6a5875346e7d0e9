"""Builds one extension, torchext._C, on torch's stable ABI: CPU kernels always, CUDA where it can be compiled.

USE_CUDA=1 demands the CUDA half, USE_CUDA=0 leaves it out; unset: built when torch has CUDA and a toolkit is found.
"""

import os
from glob import glob

import torch
from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

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
    return True, f"torch has CUDA {torch.version.cuda}, toolkit at {CUDA_HOME}"


def extension():
    cuda, reason = want_cuda()
    print(f"torchext: building for CPU{' and CUDA' if cuda else ' only'} ({reason})", flush=True)
    flags = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *(["-DTORCHEXT_CUDA"] if cuda else [])]
    sources = [*glob("csrc/*.cpp"), *glob("csrc/cpu/*.cpp"), *(glob("csrc/cuda/*.cu") if cuda else [])]
    return (CUDAExtension if cuda else CppExtension)(
        "torchext._C",
        sorted(sources),
        depends=glob("csrc/**/*.h", recursive=True),
        py_limited_api=True,
        extra_compile_args={"cxx": [*CXX_FLAGS, *flags], "nvcc": ["-O3", "-std=c++20", *flags]},
    )


setup(
    packages=["torchext", "torchext.demo", "torchext.nn", "torchext.kernels"],
    package_dir={"torchext.kernels": "kernels"},
    package_data={"torchext": ["py.typed"]},
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
