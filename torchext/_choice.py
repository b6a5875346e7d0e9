"""A record of who serves which call, for whoever asks: record_routes() and explain()."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import _chosen, _op
from ._table import Decided

MEASURED = "stock measured faster at this size"

_is_compiling = torch.compiler.is_dynamo_compiling


@dataclass(frozen=True)
class Choice:
    """One call of one op: which `backend` served it, `why` where it is stock, and the `row` of the table that decided.

    "native", "triton", "simt", "stock"; or "library", a product or convolution of torch's libraries with our ReLU, or
    with ReLU in its epilogue.
    """

    op: str
    backend: str
    why: str = ""
    layer: str = ""
    row: str = ""
    decided: Decided | None = field(default=None, repr=False, compare=False)


_RECORD: ContextVar[list[Choice] | None] = ContextVar("torchext_record", default=None)
_recording = _RECORD.get
# The layers' names, while explain() has a hook on each; and the one at work.
LAYERS: ContextVar[Mapping[torch.nn.Module, str]] = ContextVar("torchext_layers", default=types.MappingProxyType({}))
LAYER: ContextVar[str] = ContextVar("torchext_layer", default="")


@contextlib.contextmanager
def record_routes() -> Iterator[list[Choice]]:
    """Records which backend serves each of our ops within the block, in this thread or task alone.

    Example:
        >>> with torchext.record_routes() as routes:
        ...     _ = torchext.nn.functional.linear_relu(torch.ones(64, 256), torch.ones(120, 256))
        >>> [route.op for route in routes]
        ['linear_relu']
    """
    choices: list[Choice] = []
    token = _RECORD.set(choices)
    try:
        yield choices
    finally:
        _RECORD.reset(token)


def note(op: str, backend: str, why: str = "", decided: Decided | None = None) -> None:
    """Records who serves a call, if anybody asked."""
    record = None if _is_compiling() else _recording()
    if record is not None:
        row = "" if decided is None else decided[0].describe(*decided[1:])
        record.append(Choice(op, backend, why, LAYER.get(), row, decided))


def note_ours(op: str, stem: str, input: Tensor, decided: Decided | None = None) -> None:
    """Records that the kernels of `stem` serve a call, and by which backend, if anybody asked."""
    if not _is_compiling() and _recording() is not None:
        chosen = _chosen.name()
        ours = _op.GPU.get(stem, "native") if input.is_cuda else "native"
        by = ours if _op.SERVED.get(chosen, set()).isdisjoint(_op.OPS[stem]) else chosen
        note(op, by, "", decided if chosen == "auto" else None)


def layers() -> Mapping[torch.nn.Module, str]:
    """The layers' names, while explain() has a hook on each."""
    return {} if _is_compiling() else LAYERS.get()


@contextlib.contextmanager
def serving(module: torch.nn.Module) -> Iterator[None]:
    """Tells explain() that `module` is served within the block, though it is not called."""
    token = LAYER.set(layers().get(module, LAYER.get()))
    try:
        yield
    finally:
        LAYER.reset(token)
