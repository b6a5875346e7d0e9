"""Who could tell our call from stock's: transforms, modes, tracers, hooks on what is saved. They get to see stock's."""

from __future__ import annotations

import torch
from torch.utils._device import DeviceContext

functorch_active = torch._C._are_functorch_transforms_active
is_batch = torch._C._functorch.is_legacy_batchedtensor  # of torch.autograd.grad(..., is_grads_batched=True)
_forward_ad = torch.autograd.forward_ad
_is_tracing = torch._C._is_tracing
_function_modes, _function_mode = torch._C._len_torch_function_stack, torch._C._get_function_stack_at
_dispatch_modes = torch._C._len_torch_dispatch_stack
_saving_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_is_anomaly = torch.is_anomaly_enabled


def transform() -> str | None:
    """The transform of torch.func or of forward-mode AD that this call is under."""
    if functorch_active():
        return "under a functorch transform (vmap, grad, jvp)"
    return "under forward-mode AD" if _forward_ad._current_level >= 0 else None


def why_seen() -> str | None:
    """Who in this thread would see another call than stock's; None if nobody. On every call's path: 0.25 us."""
    if functorch_active() or _forward_ad._current_level >= 0:
        return transform()
    if _function_modes() and not _only_sets_device():
        return "a torch function mode watches"
    if _dispatch_modes() and not _sees_kernels():
        return "a torch dispatch mode watches"
    hooks = _saving_hooks(True)
    if hooks is not None and not _are_checkpoints(hooks[0]):
        return "hooks on saved tensors watch"
    if _is_tracing():
        return "under torch.jit.trace"
    return "under anomaly detection" if _is_anomaly() else None


def _only_sets_device() -> bool:
    """torch.set_default_device is a mode that minds no call of ours; torch keeps it at the bottom, alone."""
    return _function_modes() == 1 and type(_function_mode(0)) is DeviceContext


def _sees_kernels() -> bool:
    """Whether every dispatch mode asked to see our kernels: tests that count them do."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    return all(getattr(mode, "sees_torchext", False) for mode in _get_current_dispatch_mode_stack())


def _are_checkpoints(pack) -> bool:
    """Non-reentrant checkpoints drop what is saved, whatever it is, and run the same calls again."""
    return getattr(pack, "__module__", None) == "torch.utils.checkpoint" or getattr(pack, "sees_torchext", False)
