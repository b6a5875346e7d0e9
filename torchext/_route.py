"""Which implementation serves a call: ours or stock's; why; and a record of it for whoever asks."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import types
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _chosen, _observers, _op, _private

BACKENDS = ("auto", "native", "triton", "simt", "stock")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

PLAIN = (Tensor, torch.nn.Parameter)
_STRIDED = torch.strided
REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)
_is_compiling = torch.compiler.is_dynamo_compiling
_missing: str | None = None  # why torchext._C could not be loaded
_RECORD: ContextVar[list[Choice] | None] = ContextVar("torchext_record", default=None)
_recording = _RECORD.get
_here = _chosen.here


@dataclass(frozen=True)
class Choice:
    """One call of one op: which `backend` served it, and `why` where it is stock.

    "native", "triton", "simt", "stock"; or "library", on a GPU cuBLASLt's product or cuDNN's convolution with bias and
    ReLU in its epilogue.
    """

    op: str
    backend: str
    why: str = ""
    layer: str = ""


# The layers' names, while explain() has a hook on each; and the one at work.
LAYERS: ContextVar[Mapping[torch.nn.Module, str]] = ContextVar("torchext_layers", default=types.MappingProxyType({}))
LAYER: ContextVar[str] = ContextVar("torchext_layer", default="")


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


@contextlib.contextmanager
def record_routes() -> Iterator[list[Choice]]:
    """Records which backend serves each of our ops within the block, in this thread or task alone.

    Example:
        >>> with torchext.record_routes() as routes:
        ...     _ = torchext.nn.functional.linear_relu(torch.ones(64, 256), torch.ones(120, 256))
        >>> routes[0].backend
        'native'
    """
    choices: list[Choice] = []
    token = _RECORD.set(choices)
    try:
        yield choices
    finally:
        _RECORD.reset(token)


def _fuses_later() -> bool:
    """Whether Dynamo traces for our own backend, which takes stock's functions for ours, and fuses them."""
    return _private.dynamo_backend().startswith("torchext")


def why_stock(stem: str, first: Tensor, *others: Tensor | None) -> str | None:
    """Why our kernels of an op cannot take these tensors; None if they can. On every call's path: 0.6 us."""
    name = _chosen.name()
    if name == "stock":
        return 'backend("stock") asked for it'
    if type(first) not in PLAIN:
        return _why_tensor(stem, first)
    cpu = first.is_cpu
    if not (cpu or (first.is_cuda and _serves_gpu(stem, name))):
        return _why_tensor(stem, first)
    if first.layout is not _STRIDED or first.dtype not in FLOATS or first.is_nested:
        return _why_tensor(stem, first)
    dtype = first.dtype
    for t in others:
        if t is None:
            continue
        if type(t) not in PLAIN or t.dtype is not dtype or t.is_cpu is not cpu or t.layout is not _STRIDED:
            return _why_tensor(stem, t) or f"mixed dtypes or devices: {dtype} {first.device}, {t.dtype} {t.device}"
        if t.is_nested:
            return _why_tensor(stem, t)
    return _why_cpu(name) if cpu else _why_devices(first, *others)


def _serves_gpu(stem: str, backend: str) -> bool:
    """Whether a kernel of ours can be called with tensors on a GPU."""
    if backend == "auto":
        return stem in _op.GPU
    return backend == "triton" or (backend == "native" and _op.GPU.get(stem) == "native")


def _why_cpu(backend: str) -> str | None:
    if backend == "triton" and not triton().INTERPRETED:
        return "Triton needs a GPU, or TRITON_INTERPRET=1 before its import"
    return _missing


def _why_devices(first: Tensor, *others: Tensor | None) -> str | None:
    differ = any(t is not None and t.device != first.device for t in others)
    return "tensors on different devices" if differ else None


def _why_tensor(stem: str, t: Tensor) -> str | None:
    if type(t) not in PLAIN:
        return f"{type(t).__name__} is not a plain tensor"
    if t.is_nested:
        return "a nested tensor"
    if not t.is_cpu and not (t.is_cuda and _serves_gpu(stem, _chosen.name())):
        return f"no kernel for device {t.device.type!r}" + (" in this build" if t.is_cuda else "")
    if t.layout is not _STRIDED:
        return f"no kernel for layout {t.layout}"
    return None if t.dtype in FLOATS else f"no kernel for {t.dtype}"


def auto() -> bool:
    """Whether measured speed decides between stock and what ours could serve too."""
    return (_chosen.name() if _is_compiling() else _here()) == "auto"


def note(op: str, backend: str, why: str = "") -> None:
    """Records who serves a call, if anybody asked."""
    record = None if _is_compiling() else _recording()
    if record is not None:
        record.append(Choice(op, backend, why, LAYER.get()))


def note_ours(op: str, stem: str, input: Tensor) -> None:
    """Records that the kernels of `stem` serve a call, and by which backend, if anybody asked."""
    if not _is_compiling() and _recording() is not None:
        chosen = _chosen.name()
        ours = _op.GPU.get(stem, "native") if input.is_cuda else "native"
        note(op, ours if _op.SERVED.get(chosen, set()).isdisjoint(_op.OPS[stem]) else chosen)


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


def drop_in(counterpart: Callable, wants: str) -> Callable[[Callable], Callable]:
    """Makes a function of ours the call of `counterpart` that was written, wherever somebody could tell them apart."""

    def decorate(ours: Callable) -> Callable:
        @functools.wraps(ours)
        def function(*args, **kwargs):
            if _is_compiling():
                stocks = torch.compiler.is_exporting() or _fuses_later()
                return (counterpart if stocks else ours)(*args, **kwargs)
            why = _observers.why_seen()
            first = args[0] if args else kwargs.get("input")
            if why is None and type(first) in PLAIN and not first.is_nested:
                return ours(*args, **kwargs)
            why = why or (
                "a nested tensor" if type(first) in PLAIN else f"{type(first).__name__} is not a plain tensor"
            )
            note(ours.__name__, "stock", why)
            if hasattr(first, "__torch_function__"):
                return counterpart(*args, **kwargs)
            return _refused(ours, counterpart, wants, args, kwargs)

        return function

    return decorate


def _refused(ours: Callable, counterpart: Callable, wants: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Has stock refuse what is no tensor, and names the arguments by the signature of ours."""
    try:
        return counterpart(*args, **kwargs)
    except REFUSALS as error:
        try:
            named = inspect.signature(ours).bind(*args, **kwargs).arguments
        except TypeError:  # they fit neither
            raise error from None
        raise refusal(ours.__name__, wants, error, **named) from None


def stock(op: str, why: str, wants: str, function: Callable, **arguments: Any) -> Any:
    """Serves the call by stock; where stock refuses, the error says what we expected and got, then what torch said."""
    note(op, "stock", why)
    try:
        return function(**arguments)
    except REFUSALS as error:
        raise refusal(op, wants, error, **arguments) from None


def refusal(op: str, wants: str, error: Exception, **arguments: Any) -> Exception:
    """An exception of `error`'s type that says what we expected and got, then what torch said."""
    got = ", ".join(f"{name} {_describe(value)}" for name, value in arguments.items())
    try:
        return type(error)(f"{op}: expected {wants}; got {got} (torch: {error})")
    except Exception:  # an exception type that takes other arguments
        return error


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        shape = "[nested]" if value.is_nested else list(value.shape)
        return f"{dtype}{shape}" + ("" if value.device.type == "cpu" else f" on {value.device}")
    return repr(value)
