"""Ways to observe a model's layers while it trains; what each sees is compared with stock's.

An observer is called with the layers by name and with `run`, which runs forward and returns the loss.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from forward_observers import FORWARD, on_forward, removed, trained
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules import module as global_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint


def pre_hook(layers, run):
    seen = []

    def hook(layer, args):
        seen.append(args[0].detach().clone())
        return (args[0] * 2,)

    with removed(layer.register_forward_pre_hook(hook) for layer in layers.values()):
        return trained(layers, run), seen


def kwargs_hook(layers, run):
    seen = []
    with removed(
        layer.register_forward_hook(lambda m, a, k, o: seen.append((len(a), sorted(k))), with_kwargs=True)
        for layer in layers.values()
    ):
        return trained(layers, run), seen


def backward_hook(register):
    """By a method that registers a hook on a layer's gradients."""

    def observe(layers, run):
        seen = []

        def hook(layer, *gradients):
            seen.append([None if g is None else g.clone() for gs in gradients for g in gs])

        def scale(layer, gradients):
            return tuple(g * 0.5 for g in gradients)

        with removed(getattr(layer, register)(scale if "pre" in register else hook) for layer in layers.values()):
            results = trained(layers, run)
        return results, seen if register != "register_backward_hook" else [s[-1:] for s in seen]

    return observe


def gradient_edges(layers, run):
    edges = []
    with removed(
        layer.register_forward_hook(lambda m, a, o: edges.append(get_gradient_edge(o))) for layer in layers.values()
    ):
        loss = run()
    return torch.autograd.grad(loss, edges, allow_unused=True) if edges else None


def to_the_middle(layers, run):
    outputs = []
    with removed(layer.register_forward_hook(lambda m, a, o: outputs.append(o)) for layer in layers.values()):
        loss = run()
    gradients = torch.autograd.grad(loss, outputs, create_graph=True)
    return gradients, [type(g) for g in gradients]


def saved_tensors(layers, run):
    packed, unpacked = [], []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append((t.shape, t.dtype)) or t, lambda t: unpacked.append(t.shape) or t
    ):
        results = trained(layers, run)
    return results, packed, unpacked


def saved_on_cpu(layers, run):
    with torch.autograd.graph.save_on_cpu():
        return trained(layers, run)


def saving_disabled(layers, run):
    with torch.autograd.graph.disable_saved_tensors_hooks("no hooks here"):
        return trained(layers, run)


def checkpointed(reentrant):
    def observe(layers, run):
        calls = []
        with removed(layer.register_forward_hook(lambda *_: calls.append(1)) for layer in layers.values()):
            zero = torch.zeros((), requires_grad=True)
            results = trained(layers, lambda: checkpoint(lambda z: run() + z, zero, use_reentrant=reentrant))
        return results, len(calls)

    return observe


def checkpointed_unhooked(layers, run):
    zero = torch.zeros((), requires_grad=True)
    return trained(layers, lambda: checkpoint(lambda z: run() + z, zero, use_reentrant=False))


def module_hooks(register):
    def observe(layers, run):
        seen = []
        with removed([getattr(global_hooks, register)(lambda layer, *_: seen.append(type(layer).__name__))]):
            results = trained(layers, run)
        return results, [name for name in seen if name in {type(layer).__name__ for layer in layers.values()}]

    return observe


def anomaly(layers, run):
    with torch.autograd.detect_anomaly(check_nan=True):
        return trained(layers, run)


def anomaly_of_nan(layers, run):
    with torch.autograd.detect_anomaly(check_nan=True):
        return trained(layers, lambda: run() * float("nan"))


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.append((function.__name__, len(args), sorted(kwargs or {})))
        return function(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def under(mode):
    def observe(layers, run):
        with mode() as watching:
            results = trained(layers, run)
        return results, watching.seen

    return observe


def default_device(layers, run):
    with torch.device("cpu"):
        return trained(layers, run)


def in_threads(layers, run):
    with ThreadPoolExecutor(2) as pool:
        losses = [future.result() for future in [pool.submit(run) for _ in range(4)]]
    sum(losses).backward()
    return [loss.detach() for loss in losses]


def without_grad(layers, run):
    with torch.no_grad():
        loss = run()
    return loss, loss.requires_grad


def in_inference(layers, run):
    with torch.inference_mode():
        loss = run()
    return loss.item(), loss.is_inference()


def patched_forward(layers, run):
    """Replaces `forward` on each layer's class, as tools that wrap layers do."""
    seen, replaced = [], []
    for cls in {type(layer) for layer in layers.values()}:
        original = cls.forward

        def forward(self, *args, _original=original, **kwargs):
            seen.append(type(self).__name__)
            return _original(self, *args, **kwargs)

        replaced.append((cls, "forward" in vars(cls), original))
        cls.forward = forward
    try:
        return trained(layers, run), seen
    finally:
        for cls, own, original in replaced:
            if own:
                cls.forward = original
            else:
                del cls.forward


OBSERVERS = {
    **{f"forward hook: {name}": on_forward(see) for name, see in FORWARD.items()},
    "forward pre-hook": pre_hook,
    "forward hook with kwargs": kwargs_hook,
    "full backward hook": backward_hook("register_full_backward_hook"),
    "full backward pre-hook": backward_hook("register_full_backward_pre_hook"),
    "legacy backward hook": backward_hook("register_backward_hook"),
    "GradientEdge": gradient_edges,
    "grad to the middle": to_the_middle,
    "hooks on saved tensors": saved_tensors,
    "save_on_cpu": saved_on_cpu,
    "no hooks on saved tensors": saving_disabled,
    "reentrant checkpoint": checkpointed(True),
    "checkpoint": checkpointed(False),
    "checkpoint without hooks": checkpointed_unhooked,
    "global forward hook": module_hooks("register_module_forward_hook"),
    "global forward pre-hook": module_hooks("register_module_forward_pre_hook"),
    "global backward hook": module_hooks("register_module_full_backward_hook"),
    "anomaly mode": anomaly,
    "anomaly mode, NaN": anomaly_of_nan,
    "function mode": under(Functions),
    "dispatch mode": under(Operators),
    "default device": default_device,
    "threads": in_threads,
    "no_grad": without_grad,
    "inference mode": in_inference,
    "patched class": patched_forward,
}
