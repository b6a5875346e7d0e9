"""Bytes: what forward saves for backward, and the most a step holds at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch.autograd.profiler import profile


def saved(function: Callable, tensors: Sequence[torch.Tensor]) -> int:
    """Bytes kept for backward beyond the inputs and the result, which are alive anyway; each storage counted once."""
    sizes = {}

    def pack(t):
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(*tensors)
    alive = {t.untyped_storage().data_ptr() for t in (*tensors, y)}
    return sum(size for storage, size in sizes.items() if storage not in alive)


def highest(changes: Iterable[int]) -> int:
    """The highest level that allocations (positive) and releases (negative), in their order, reach."""
    level = peak = 0
    for change in changes:
        level += change
        peak = max(peak, level)
    return peak


def peak(run: Callable[[], object], device: str) -> int:
    """Most bytes of tensors alive at once during `run()`, beyond those alive before; libraries' scratch is not seen."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    return highest(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
