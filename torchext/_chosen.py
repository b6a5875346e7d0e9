"""Which backend serves our ops in this thread or task, as :func:`torchext.backend` chose it there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

_NAME: ContextVar[str] = ContextVar("torchext_backend", default="auto")
here = _NAME.get
_traced = "auto"  # Dynamo knows no context variables, but guards what it reads here: what the newest block chose
_is_compiling, _is_exporting = torch.compiler.is_dynamo_compiling, torch.compiler.is_exporting


def name() -> str:
    """The backend's name: "stock" in a graph that is exported, for others, at sizes nobody knows yet."""
    if _is_compiling():
        return "stock" if _is_exporting() else _traced
    return here()


@contextlib.contextmanager
def within(backend: str) -> Iterator[None]:
    """Chooses `backend` within the block, for this thread or task alone."""
    global _traced
    token = _NAME.set(backend)
    _traced = backend
    try:
        yield
    finally:
        _NAME.reset(token)
        _traced = here()
