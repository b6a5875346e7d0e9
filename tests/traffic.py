"""What the GPU kernels launched, as csrc/simt counts it: name, grid, bytes of global memory read and written."""

import pytest

from torchext import _backend

needs_simt = pytest.mark.skipif(_backend.simt() is None, reason="torchext._simt is not built: TORCHEXT_SIMT=1")


def launches(call):
    simt = _backend.simt()
    simt.record(True)
    try:
        call()
        return simt.launches()
    finally:
        simt.record(False)
