"""Every barrier and every wait of the matrix product matters: without it, the kernel fails on csrc/simt."""

import ctypes
import re
import subprocess

import numpy as np
import pytest
from simt_kernels import COMPILE, ROOT

pytestmark = pytest.mark.long
KERNELS = ROOT / "csrc/cuda"
NEEDED = re.compile(r"^.*(__syncthreads\(\)|__syncwarp\(\)|copy_async_wait<[^>]*>\(\)|copy_async_commit\(\));.*$", re.M)
FILES = ("gemm.cuh", "linear_relu.cu")
SITES = [(name, match.start()) for name in FILES for match in NEEDED.finditer((KERNELS / name).read_text())]

DRIVER = """
#include "cuda/linear_relu.cu"
using namespace torchext;
using namespace torchext::cuda;
template <class F>
int failed(F&& f) {
  try {
    return f(), 0;
  } catch (const std::exception& error) {
    return 1;
  }
}
extern "C" {
void seed(uint64_t number) { simt::order = simt::Random(number); }
int product(float* c, const float* a, const float* b, long m, long n, long k) {
  const MatmulShape s{m, n, k, k, 1, 1, k};
  std::vector<float> pieces(matmul_scratch_size<float>(s));
  return failed([&] { matmul<float>(c, a, b, nullptr, false, false, s, pieces.data(), nullptr); });
}
int mask(float* dz, float* db, const float* dy, const float* y, long m, long n, float* scratch) {
  return failed([&] { relu_backward<float>(dz, db, dy, y, m, n, scratch, nullptr); });
}
}
"""


def build(folder, name=None, at=0):
    """The kernels as they are, or without the line of `name` that begins at `at`."""
    for file in (*KERNELS.iterdir(), ROOT / "csrc/types.h", ROOT / "csrc/linear_relu.h"):
        text = file.read_text()
        if file.name == name:
            end = text.index("\n", at)
            text = text[:at] + NEEDED.sub("", text[at:end]) + text[end:]
        target = folder / ("cuda" if file.parent == KERNELS else ".") / file.name
        target.parent.mkdir(exist_ok=True)
        # One element type is enough, and quicker to build.
        target.write_text(re.sub(r"^INSTANTIATE\((?!float\)).*\);$", "", text, flags=re.M))
    (folder / "driver.cpp").write_text(DRIVER)
    library = folder / "driver.so"
    subprocess.run([*COMPILE, "-O1", "-fPIC", "-shared", str(folder / "driver.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def right(library):
    rng = np.random.default_rng(0)
    pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p)
    for seed in range(4):
        library.seed(ctypes.c_uint64(seed))
        for m, n, k in ((64, 64, 128), (60, 50, 124)):
            a, b, c = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (n, k), (m, n)))
            if library.product(pointer(c), pointer(a), pointer(b), *map(ctypes.c_long, (m, n, k))):
                return False
            if not np.allclose(c, a @ b.T, atol=1e-3):
                return False
        m, n = 200, 64
        dy, y = (rng.standard_normal((m, n)).astype(np.float32) for _ in range(2))
        dz, db, scratch = (np.zeros(s, np.float32) for s in ((m, n), n, (2, n)))
        if library.mask(*map(pointer, (dz, db, dy, y)), ctypes.c_long(m), ctypes.c_long(n), pointer(scratch)):
            return False
        want = np.where(y <= 0, 0, dy)
        if not (np.array_equal(dz, want) and np.allclose(db, want.sum(0), atol=1e-3)):
            return False
    return True


def test_the_kernels_as_they_are_are_right(tmp_path):
    assert right(build(tmp_path))


@pytest.mark.parametrize("name, at", SITES, ids=[f"{name}:{at}" for name, at in SITES])
def test_without_it_they_are_not(tmp_path, name, at):
    assert not right(build(tmp_path, name, at))
