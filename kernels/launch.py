"""How a Triton kernel becomes an operator: registered as an overload, launched, seen by torch.compile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from .._private import functional_mode

INTERPRETED: bool = triton.knobs.runtime.interpret
OPTIONS = {"enable_fp_fusion": True, "sanitize_overflow": False}
_LIB = library.Library("torchext", "FRAGMENT")
_tracing = False
_recorder: Callable | None = None
_recorded_capability = 90


def implements(name: str) -> Callable[[Callable], Callable]:
    """Registers the function below it, a launcher, as torch.ops.torchext.<name>.triton."""

    def register(launcher: Callable) -> Callable:
        overload = f"{name}.triton"
        for key in ("CPU", "CUDA") if INTERPRETED else ("CUDA",):
            _LIB.impl(overload, launcher, key)
        mode = None if INTERPRETED else functional_mode()
        if mode is not None:
            # As torch's own triton_op does: Inductor sees the kernels, not an opaque op.
            library.register_torch_dispatch(f"torchext::{overload}", mode, _seen_through(launcher), lib=_LIB)
        return launcher

    return register


def _seen_through(launcher: Callable) -> Callable:
    def rule(mode, op, types, args, kwargs):
        global _tracing
        before, _tracing = _tracing, True
        try:
            with mode:
                return launcher(*args, **kwargs)
        finally:
            _tracing = before

    return rule


def launch(kernel: Any, grid: Sequence[int] | Callable, *args: Any, **meta: Any) -> None:
    """kernel[grid](*args, **meta) on the device of the first argument, a tensor; `meta` are its constexprs and options.

    An empty grid, as of an empty result, launches nothing. Multiply-adds are fused, as nvcc fuses them, and where a
    kernel has checks of its own, debug=True, Triton adds none of every 32-bit sum and product.
    """
    if not callable(grid) and 0 in grid:
        return
    if _recorder is not None:
        _recorder(kernel, args, meta)
    elif _tracing:
        library.wrap_triton(kernel)[grid](*args, **meta)
    else:
        with _on_device_of(args[0]):
            kernel[grid](*args, **meta, **OPTIONS)


def _on_device_of(x: Tensor) -> contextlib.AbstractContextManager:
    elsewhere = x.is_cuda and x.device.index != torch.cuda.current_device()
    return torch.cuda.device(x.device) if elsewhere else contextlib.nullcontext()


@contextlib.contextmanager
def recorded(recorder: Callable[[Any, tuple, dict], None], capability: int = 90) -> Iterator[None]:
    """Within the block a launch calls recorder(kernel, args, meta) instead: launchers then run on meta tensors.

    They choose their kernels for a GPU of that compute capability.
    """
    global _recorder, _recorded_capability
    before = _recorder, _recorded_capability
    _recorder, _recorded_capability = recorder, capability
    try:
        yield
    finally:
        _recorder, _recorded_capability = before


def autotune(configs: Sequence[triton.Config], key: Sequence[str]) -> Callable:
    """Chooses among `configs` by time, once for each `key` on each device: the choice is kept on disk.

    The first of `configs` is the default: what the interpreter runs, and what the static gate lets spill nothing.
    """
    return triton.autotune(configs=list(configs[:1] if INTERPRETED else configs), key=list(key), cache_results=True)


def accumulator(x: Tensor) -> tl.dtype:
    """The type that sums over x are kept in."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def processors(x: Tensor) -> int:
    """Multiprocessors of x's device; an H200's where x is on none, few for the interpreter, which has one thread."""
    if x.is_cuda:
        return torch.cuda.get_device_properties(x.device).multi_processor_count
    return 8 if INTERPRETED else 132


def capability(x: Tensor) -> int:
    """The compute capability of x's device, as 90 for 9.0; an H200's where x is on none."""
    major, minor = torch.cuda.get_device_capability(x.device) if x.is_cuda else divmod(_recorded_capability, 10)
    return 10 * major + minor


def is_aligned(x: Tensor) -> bool:
    """Whether x starts at a multiple of 16 bytes. One without data is taken to lie where an allocation begins."""
    address = x.storage_offset() * x.element_size() if _recorder or _tracing else x.data_ptr()
    return address % 16 == 0


def give_scratch(x: Tensor) -> None:
    """Lets Triton keep the tensor descriptors that the next launch makes in x's device memory."""
    if x.is_cuda and not _tracing:
        device = x.device  # Triton keeps the function: one that named x would keep x alive
        triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device))
