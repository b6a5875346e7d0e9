"""Ops: one schema and one fake each, implemented in C++; and what every op's autograd.Function shares."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, library

from . import _chosen
from ._private import direct_apply

LIB = library.Library("torchext", "DEF")
OPS: dict[str, list[str]] = {}  # by stem, as the file that declares them tells it
CPU_ONLY: set[str] = set()  # stems that have no GPU kernel: a GPU's tensors go to stock
GPU: dict[str, str] = {}  # by stem, what serves a GPU's tensors here: "native", or "triton" where no CUDA was built

SERVED: dict[str, set[str]] = {"simt": set(), "triton": set()}  # by each backend, the ops that have an overload of it
_name = _chosen.name
_is_grad_enabled = torch.is_grad_enabled  # 0.1 us less than by its name


def define(name: str, signature: str, fake: Callable, cpu_only: bool = False) -> Callable:
    """Declares torch.ops.torchext.<name>, which csrc/ implements, and returns a function that calls it.

    There is one overload per backend, all of one schema: `.default` (csrc/cpu, csrc/cuda), `.simt` (csrc/cuda run on
    the CPU) and `.triton` (kernels/). The function calls the one that was chosen, and the native one where that has no
    kernel; going through it costs 0.2 us. `fake` gives the results' shapes and strides, for all.
    """
    for overload in ("", ".simt", ".triton"):
        LIB.define(name + overload + signature)
        library.register_fake(f"torchext::{name}{overload}", fake, lib=LIB)
    stem = fake.__module__.rpartition(".")[2].removeprefix("_").removesuffix("_backward")
    OPS.setdefault(stem, []).append(name)
    if cpu_only:
        CPU_ONLY.add(stem)
    packet = getattr(torch.ops.torchext, name)
    native, beside = packet.default, {backend: getattr(packet, backend) for backend in SERVED}

    def op(*args):
        backend = _name()
        return (beside[backend] if backend in SERVED and name in SERVED[backend] else native)(*args)

    return op


def find_served(backend: str) -> None:
    """Fills SERVED of a backend whose kernels are loaded by now."""
    if backend in SERVED and not SERVED[backend]:
        for name in (name for names in OPS.values() for name in names):
            if any(_has_kernel(name, backend, key) for key in ("CPU", "CUDA")):
                SERVED[backend].add(name)


def _has_kernel(name: str, overload: str, key: str) -> bool:
    return getattr(getattr(torch.ops.torchext, name), overload).has_kernel_for_dispatch_key(key)


def find_gpu_kernels() -> None:
    """Fills GPU. An op without CUDA kernels in this build is served by Triton, wherever torch and Triton know CUDA."""
    triton = torch.version.cuda is not None and importlib.util.find_spec("triton") is not None
    for stem, names in OPS.items():
        missing = [name for name in names if not _has_kernel(name, "default", "CUDA")]
        if not missing:
            GPU[stem] = "native"
        elif triton and stem not in CPU_ONLY:
            for name in missing:
                LIB.impl(name, _by_triton(name), "CUDA")
            GPU[stem] = "triton"


def _by_triton(name: str) -> Callable:
    """The op's launcher of kernels/, loaded by the first call: 0.3 s that an import of torchext does not take."""

    def kernel(*args):
        importlib.import_module("torchext.kernels")
        return getattr(torch.ops.torchext, name).triton(*args)

    return kernel


class Function(torch.autograd.Function):
    """Base of our autograd.Functions; `call` is `apply` less its look for functorch (1 us), the route's work."""

    def __init_subclass__(cls):
        super().__init_subclass__()
        cls._direct = direct_apply(cls)

    @classmethod
    def call(cls, *args):
        if torch.compiler.is_compiling():
            return cls.apply(*args)
        backend = _name()
        return _eager(cls, backend if backend in SERVED else None)._direct(*args)


@functools.cache
def _eager(function: type[Function], backend: str | None) -> type[Function]:
    """`function` that makes no gradients of none, as ATen's nodes: an optimizer leaves alone what has none.

    Its backward is by the same `backend` as forward, though a GPU's runs in a thread of autograd's own.
    """

    def forward(ctx, *args):
        ctx.set_materialize_grads(False)
        return function.forward(ctx, *args)

    def backward(ctx, *gradients):
        if all(g is None for g in gradients):
            return (None,) * len(ctx.needs_input_grad)
        if backend is None:
            return function.backward(ctx, *gradients)
        with _chosen.within(backend):
            return function.backward(ctx, *gradients)

    overrides = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(function.__name__, (function,), overrides)


def wants_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd must see this call."""
    for t in tensors:
        if t is not None and t.requires_grad:
            return _is_grad_enabled()
    return False


def either_wants_grad(a: Tensor, b: Tensor) -> bool:
    """The same of two: 0.1 us less, on the way of calls that go to stock."""
    return (a.requires_grad or b.requires_grad) and _is_grad_enabled()


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
