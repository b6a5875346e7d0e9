"""The backends that can be chosen here, and the block that chooses one."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

from . import _chosen, _op

BACKENDS = ("auto", "native", "triton", "simt", "stock")


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Serves our ops by one backend within the block, in this thread or task alone.

    As torch's own modes; a thread started within the block starts with "auto". A compiled function is traced anew where
    its backend was chosen by a block that was entered since.

    Args:
        name: "auto" (ours unless stock measured faster, the default), "native" (ours in C++ or CUDA wherever it can),
            "triton" (ours in Triton: on a GPU, or on the CPU where TRITON_INTERPRET=1 was set), "simt" (our CUDA
            kernels, run thread by thread on the CPU to be tested there; only in development builds) or "stock".

    Raises:
        ValueError: `name` is none of these, or it is not installed here.

    Example:
        >>> with torchext.backend("stock"):
        ...     y = torchext.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3))
    """
    if name not in BACKENDS:
        raise ValueError(f"backend: name is {name!r}, expected one of {', '.join(map(repr, backends()))}")
    if name == "simt" and simt() is None:
        raise ValueError("backend: this build has no 'simt': set TORCHEXT_SIMT=1 when building, as `make build` does")
    if name == "triton" and triton() is None:
        raise ValueError("backend: 'triton' needs the package triton: pip install triton")
    _op.find_served(name)
    with _chosen.within(name):
        yield


def simt() -> Any:
    """The module that runs GPU kernels on the CPU (torchext._simt), None where it was not built."""
    name = "_simt_sanitized" if os.getenv("SANITIZE") == "1" else "_simt"
    try:
        return importlib.import_module(f"torchext.{name}")
    except ModuleNotFoundError:
        return None


def triton() -> Any:
    """The package of our Triton kernels, None where Triton is missing; loading it registers them (0.3 s, once)."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("torchext.kernels")


def backends() -> tuple[str, ...]:
    """The names that :func:`backend` takes here."""
    missing = {"simt": simt() is None, "triton": triton() is None}
    return tuple(name for name in BACKENDS if not missing.get(name))
