"""Who could tell our call from stock's: transforms, modes, tracers, hooks on what is saved. They get to see stock's."""

from __future__ import annotations

import torch

from ._private import (
    UNASKED,
    DeviceContext,
    dispatch_mode_stack,
    dispatch_modes,
    forward_ad,
    function_mode,
    function_modes,
    functorch_active,
    is_tracing,
    saving_hooks,
)

_is_anomaly = torch.is_anomaly_enabled


def transform() -> str | None:
    """The transform of torch.func or of forward-mode AD that this call is under."""
    if functorch_active():
        return "under a functorch transform (vmap, grad, jvp)"
    return "under forward-mode AD" if forward_ad._current_level >= 0 else None


def why_seen() -> str | None:
    """Who in this thread would see another call than stock's; None if nobody. On every call's path: 0.25 us."""
    if functorch_active() or forward_ad._current_level >= 0:
        return transform()
    if function_modes() and not _only_sets_device():
        return "a torch function mode watches"
    if dispatch_modes() and not _sees_kernels():
        return "a torch dispatch mode watches"
    hooks = saving_hooks(True)
    if hooks is not None and not _are_checkpoints(hooks[0]):
        return "hooks on saved tensors watch"
    if is_tracing():
        return "under torch.jit.trace"
    return "under anomaly detection" if _is_anomaly() else None


def _only_sets_device() -> bool:
    """torch.set_default_device is a mode that minds no call of ours; torch keeps it at the bottom, alone."""
    return function_modes() == 1 and type(function_mode(0)) is DeviceContext


def _sees_kernels() -> bool:
    """Whether every dispatch mode asked to see our kernels: tests that count them do."""
    return all(getattr(mode, "sees_torchext", False) for mode in dispatch_mode_stack())


def _are_checkpoints(pack) -> bool:
    """Non-reentrant checkpoints drop what is saved, whatever it is, and run the same calls again."""
    return getattr(pack, "__module__", None) == "torch.utils.checkpoint" or getattr(pack, "sees_torchext", False)


def _why_unasked() -> str:
    return f"who watches is unknown: this torch has no {', '.join(UNASKED)}"


if UNASKED:
    why_seen = _why_unasked
