"""Whether our kernels can take a call's tensors at all, whatever the speed; and whether speed decides."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _backend, _chosen, _native, _op
from ._table import DTYPE

FLOATS = tuple(DTYPE)
PLAIN = (Tensor, torch.nn.Parameter)
_STRIDED = torch.strided
_is_compiling = torch.compiler.is_dynamo_compiling
_here = _chosen.here


def auto() -> bool:
    """Whether measured speed decides between stock and what ours could serve too."""
    return (_chosen.name() if _is_compiling() else _here()) == "auto"


def why_stock(stem: str, first: Tensor, *others: Tensor | None) -> str | None:
    """Why our kernels of an op cannot take these tensors; None if they can. On every call's path: 0.6 us."""
    name = _chosen.name()
    if name == "stock":
        return 'backend("stock") asked for it'
    if type(first) not in PLAIN:
        return why_not(stem, first)
    cpu = first.is_cpu
    if not (cpu or (first.is_cuda and _serves_gpu(stem, name))):
        return why_not(stem, first)
    if first.layout is not _STRIDED or first.dtype not in FLOATS or first.is_nested:
        return why_not(stem, first)
    dtype = first.dtype
    for t in others:
        if t is None:
            continue
        if type(t) not in PLAIN or t.dtype is not dtype or t.is_cpu is not cpu or t.layout is not _STRIDED:
            return why_not(stem, t) or f"mixed dtypes or devices: {dtype} {first.device}, {t.dtype} {t.device}"
        if t.is_nested:
            return why_not(stem, t)
    return _why_cpu(name) if cpu else _why_devices(first, *others)


def why_not(stem: str, t: Tensor) -> str | None:
    """Why our kernels of an op cannot take this tensor; None if they can."""
    if type(t) not in PLAIN:
        return f"{type(t).__name__} is not a plain tensor"
    if t.is_nested:
        return "a nested tensor"
    if not t.is_cpu and not (t.is_cuda and _serves_gpu(stem, _chosen.name())):
        return f"no kernel for device {t.device.type!r}" + (" in this build" if t.is_cuda else "")
    if t.layout is not _STRIDED:
        return f"no kernel for layout {t.layout}"
    return None if t.dtype in FLOATS else f"no kernel for {t.dtype}"


def _serves_gpu(stem: str, backend: str) -> bool:
    """Whether a kernel of ours can be called with tensors on a GPU."""
    if backend == "auto":
        return stem in _op.GPU
    return (backend == "triton" and stem not in _op.CPU_ONLY) or (backend == "native" and _op.GPU.get(stem) == "native")


def _why_cpu(backend: str) -> str | None:
    if backend == "triton" and not _backend.triton().INTERPRETED:
        return "Triton needs a GPU, or TRITON_INTERPRET=1 before its import"
    return _native.missing


def _why_devices(first: Tensor, *others: Tensor | None) -> str | None:
    differ = any(t is not None and t.device != first.device for t in others)
    return "tensors on different devices" if differ else None
