"""Bytes: what forward saves for backward, and the peak of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch.autograd.profiler import profile


def saved(function: Callable, tensors: Sequence[torch.Tensor], device: str) -> int:
    """Bytes that forward leaves alive for backward beyond the inputs and the result, wherever it keeps them."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        y = function(*tensors)
        return torch.cuda.memory_allocated() - before - _own(y, tensors)
    changes, y = _changes(lambda: function(*tensors))
    return sum(changes) - _own(y, tensors)


def _own(y: torch.Tensor, tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of y's storage, none if it is an input's."""
    storage = y.untyped_storage()
    return 0 if storage.data_ptr() in {t.untyped_storage().data_ptr() for t in tensors} else storage.nbytes()


def _changes(run: Callable[[], object]) -> tuple[list[int], object]:
    """Bytes allocated (positive) and released (negative) in their order, and run's result, which is still alive."""
    with profile(profile_memory=True) as profiler:
        result = run()
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())], result


def highest(changes: Iterable[int]) -> int:
    """The highest level that allocations (positive) and releases (negative), in their order, reach."""
    level = peak = 0
    for change in changes:
        level += change
        peak = max(peak, level)
    return peak


def peak(run: Callable[[], object], device: str) -> int:
    """Peak bytes of tensors during `run()`, beyond those alive before; libraries' scratch memory is not counted."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    return highest(_changes(run)[0])
