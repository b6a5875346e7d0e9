"""Ops: one schema and one fake each, implemented in C++; and what every op's autograd.Function shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, library

LIB = library.Library("torchext", "DEF")
OPS: list[str] = []
CPU_ONLY: set[str] = set()  # of these: a GPU's tensors go to stock, and a build for GPUs has no kernel

SERVED: dict[str, set[str]] = {"simt": set(), "triton": set()}  # by each backend, the ops that have an overload of it
_CHOOSERS: list[Callable[[str], None]] = []


def define(name: str, signature: str, fake: Callable, cpu_only: bool = False) -> Callable:
    """Declares torch.ops.torchext.<name>, which csrc/ implements, and returns a function that calls it.

    There is one overload per backend, all of one schema: `.default` (csrc/cpu, csrc/cuda), `.simt` (csrc/cuda run on
    the CPU) and `.triton` (kernels/). The function calls the one that :func:`use` chose last; going through it costs
    20 ns. `fake` gives the results' shapes and strides, for all.
    """
    for overload in ("", ".simt", ".triton"):
        LIB.define(name + overload + signature)
        library.register_fake(f"torchext::{name}{overload}", fake, lib=LIB)
    OPS.append(name)
    if cpu_only:
        CPU_ONLY.add(name)
    packet = getattr(torch.ops.torchext, name)
    overload = packet.default

    def op(*args):
        return overload(*args)

    def choose(backend: str) -> None:
        nonlocal overload
        served = backend in SERVED and any(_has_kernel(f"{name}.{backend}", key) for key in ("CPU", "CUDA"))
        overload = getattr(packet, backend if served else "default")
        if served:
            SERVED[backend].add(name)

    _CHOOSERS.append(choose)
    return op


def _has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"torchext::{name}", key)


def on_gpu() -> bool:
    """Whether this build has the CUDA kernels of every op that is to have one."""
    return all(_has_kernel(name, "CUDA") for name in OPS if name not in CPU_ONLY)


def use(backend: str) -> None:
    """From now on our ops call that backend's overloads; those that have none for it, the native ones."""
    for choose in _CHOOSERS:
        choose(backend)


class Function(torch.autograd.Function):
    """Base of our autograd.Functions; `call` is `apply` less its look for functorch (1 us), the route's work."""

    def __init_subclass__(cls):
        super().__init_subclass__()
        cls._direct = super(torch.autograd.Function, cls).apply

    @classmethod
    def call(cls, *args):
        return cls.apply(*args) if torch.compiler.is_compiling() else cls._direct(*args)


def wants_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd must see this call."""
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    return False


def twice_differentiable() -> bool:
    """Inside a backward: whether its result must be differentiable in turn (create_graph=True)."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def recompute_backward(
    function: Callable, inputs: Sequence[Tensor | None], dy: Tensor | Sequence[Tensor], needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of `function` that can be differentiated again: stock's own, through its graph over the saved inputs.

    Each input enters as a view of its own, so that one tensor given twice gets two gradients.
    """
    with torch.enable_grad():
        inputs = [t if t is None else t.view_as(t) for t in inputs]
        y = function(*inputs)
    wanted = [t for t, need in zip(inputs, needed) if need]
    gradients = iter(torch.autograd.grad(y, wanted, dy, create_graph=True, allow_unused=True))
    return tuple(next(gradients) if need else None for need in needed)
