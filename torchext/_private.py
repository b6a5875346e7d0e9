"""What torch keeps to itself and this package uses: every such name, and what serves where a torch lacks it.

That is always stock's own way, slower or seen by more, and never an import that fails. The functions are torch's own
where it has them, so that a call has no detour.
"""

from __future__ import annotations

import operator
import pkgutil
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _find(name: str, otherwise: Any = None) -> Any:
    """What torch has under that name, "module:attribute"; else `otherwise`."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return otherwise


# Observers. One that cannot be asked may be there: all but what torch.compile traces is stock's then.
UNASKED: list[str] = []


def _ask(name: str, worst: Any) -> Any:
    """The same; where there is none, what answers `worst` whenever it is asked."""
    found = _find(name)
    if found is None:
        UNASKED.append(name.replace(":", "."))
    return found if found is not None else worst


def _yes(*_: Any) -> bool:
    return True


functorch_active = _ask("torch:_C._are_functorch_transforms_active", _yes)
is_batch = _ask("torch:_C._functorch.is_legacy_batchedtensor", _yes)  # of torch.autograd.grad(is_grads_batched=True)
function_modes = _ask("torch:_C._len_torch_function_stack", _yes)
dispatch_modes = _ask("torch:_C._len_torch_dispatch_stack", _yes)
saving_hooks = _ask("torch:_C._autograd._top_saved_tensors_default_hooks", lambda _: (None, None))
forward_ad = torch.autograd.forward_ad  # its level changes: to read it in a function here takes every call 40 ns
if _ask("torch.autograd.forward_ad:_current_level", None) is None:
    forward_ad = SimpleNamespace(_current_level=0)
is_tracing = _find("torch:_C._is_tracing", torch.jit.is_tracing)
function_mode = _find("torch:_C._get_function_stack_at", lambda _: None)
DeviceContext = _find("torch.utils._device:DeviceContext")
dispatch_mode_stack = _find("torch.utils._python_dispatch:_get_current_dispatch_mode_stack", lambda: [None])


# Autograd.
# Whether the backward now running leaves the graph for another one.
keeps_graph = _find("torch:_C._autograd._get_current_graph_task_keep_graph", _yes)
is_view = _find("torch:Tensor._is_view", _yes)
# How often a tensor was written to; where nobody counts, never as often as before.
version = operator.attrgetter("_version") if _find("torch:Tensor._version") is not None else lambda _: object()


def direct_apply(function: type[torch.autograd.Function]) -> Callable:
    """`function.apply` less its look for functorch (1 us)."""
    return getattr(super(torch.autograd.Function, function), "apply", function.apply)


# Ops.
cross_entropy_loss = _find(
    "torch:_C._nn.cross_entropy_loss",
    lambda input, target, weight, reduction, ignore_index, label_smoothing: F.cross_entropy(
        input, target, weight, None, ignore_index, None, ("none", "mean", "sum")[reduction], label_smoothing
    ),
)
addmm_relu = _find("torch:_addmm_activation")
# To autograd no view: it lets nobody edit a view out of a Function.
unsafe_view = _find("torch:ops.aten._unsafe_view.default", lambda t, shape: t.new_empty(shape).copy_(t.view(shape)))
legacy_reduction = _find(
    "torch.nn._reduction:legacy_get_string",
    lambda size_average, reduce: nn.CrossEntropyLoss(size_average=size_average, reduce=reduce).reduction,
)
# Whether a tensor fills a piece of memory without gaps or overlaps, in any order of dimensions: others are copied.
is_dense = _find("torch._prims_common:is_non_overlapping_and_dense_or_false", Tensor.is_contiguous)


def argument_names(op: Any) -> list[str] | None:
    """As an op's schema has them."""
    schema = getattr(op, "_schema", None)
    return None if schema is None else [argument.name for argument in schema.arguments]


# Devices.
# Calls a function once CUDA has started; never, where that is not told.
when_cuda_starts = _find("torch.cuda:_lazy_call", lambda function: None)
cudnn_enabled = _find("torch:_C._get_cudnn_enabled", lambda: torch.backends.cudnn.enabled)
cudnn_deterministic = _find("torch:_C._get_cudnn_deterministic", lambda: torch.backends.cudnn.deterministic)


# Modules.
_UNKNOWN = {"unknown": None}  # hooks that may be there
global_forward_hooks = _find("torch.nn.modules.module:_global_forward_hooks", _UNKNOWN)
global_forward_pre_hooks = _find("torch.nn.modules.module:_global_forward_pre_hooks", _UNKNOWN)
global_backward_hooks = _find("torch.nn.modules.module:_global_backward_hooks", _UNKNOWN)
global_backward_pre_hooks = _find("torch.nn.modules.module:_global_backward_pre_hooks", _UNKNOWN)


def is_hooked(module: nn.Module, but_for: str) -> bool:
    """Whether it has a hook, but for those of the module of that name, or a compiled call; or does not tell."""
    try:
        return bool(
            (module._forward_hooks and _has_others(module._forward_hooks, but_for))
            or (module._forward_pre_hooks and _has_others(module._forward_pre_hooks, but_for))
            or module._backward_hooks
            or module._backward_pre_hooks
            or module._compiled_call_impl is not None
        )
    except AttributeError:
        return True


def _has_others(hooks: dict[int, Callable], but_for: str) -> bool:
    return any(getattr(hook, "__module__", None) != but_for for hook in hooks.values())


def call_path() -> tuple:
    """What runs when a layer is called and somebody may have replaced; another one at each call if torch hides it."""
    try:
        return nn.Module.__call__, nn.Module._call_impl, nn.Conv2d._conv_forward
    except AttributeError:
        return (object(),)


def padding_around(conv: nn.Conv2d) -> Any:
    """What a layer that pads with no zeros pads its input by, as :func:`torch.nn.functional.pad` takes it."""
    kept = getattr(conv, "_reversed_padding_repeated_twice", None)
    if kept is not None:
        return kept
    if conv.padding == "same":
        extra = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]
        return [side for e in reversed(extra) for side in (e // 2, e - e // 2)]
    return [p for p in reversed((0, 0) if conv.padding == "valid" else conv.padding) for _ in range(2)]


def _conv_forward(self: nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padding = self.padding
    if self.padding_mode != "zeros":
        input, padding = F.pad(input, padding_around(self), mode=self.padding_mode), 0
    return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


conv_forward = _find("torch.nn:Conv2d._conv_forward", _conv_forward)


def check_input_dim(norm: nn.BatchNorm2d, input: Tensor) -> None:
    """Has the layer refuse what is no batch of images."""
    check = getattr(norm, "_check_input_dim", None)
    if check is not None:
        check(input)
    elif input.dim() != 4:
        raise ValueError(f"expected 4D input (got {input.dim()}D input)")


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """The dictionary itself; an empty one where there is none to edit."""
    return getattr(module, "_buffers", {})


# TorchScript. Where it does not tell, it compiles ours as any other Python, or refuses to.
find_builtin = _find("torch.jit._builtins:_find_builtin", lambda _: None)
register_builtin = _find("torch.jit._builtins:_register_builtin")
boolean_dispatched = _find("torch._jit_internal:boolean_dispatched")


# The compiler. Nothing here imports it before somebody else has: that takes 1 s.
def dynamo_backend() -> str:
    """The name of the function that Dynamo now traces for; "" if it has none."""
    translator = _find("torch._dynamo.symbolic_convert:InstructionTranslator.current_tx", lambda: None)()
    compiler = getattr(getattr(translator, "output", None), "compiler_fn", None)
    return getattr(compiler, "__name__", "")


dynamo_backend._dynamo_marked_constant = True  # torch.compiler.assume_constant_result, which would import Dynamo


def is_exporting() -> bool:
    """Whether torch.export traces. Before torch 2.12 Dynamo takes torch's own function for true in every trace."""
    return torch.compiler.is_exporting()


is_exporting._dynamo_marked_constant = True


def dynamo_backends() -> dict[str, Any] | None:
    """Those that Dynamo knows by name; None until it is imported."""
    return getattr(sys.modules.get("torch._dynamo.backends.registry"), "_BACKENDS", None)


def compile_modes() -> tuple[str, ...] | None:
    """Those of torch.compile; None if it does not tell."""
    found = _find("torch._inductor:list_mode_options")
    return None if found is None else tuple(found())


def functional_mode() -> type | None:
    """The mode under which Inductor sees our Triton kernels; without one it sees an opaque op."""
    return _find("torch._subclasses.functional_tensor:FunctionalTensorMode")
