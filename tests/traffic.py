"""What the GPU kernels launched, as csrc/simt counts it: name, grid, bytes of global memory read and written."""

from torchext import _backend


def launches(call):
    simt = _backend.simt()
    simt.record(True)
    try:
        call()
        return simt.launches()
    finally:
        simt.record(False)
