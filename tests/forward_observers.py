"""What a forward hook on a layer can keep of its result, or return instead; see observers.py."""

import contextlib

import torch


@contextlib.contextmanager
def removed(handles):
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trained(layers, run):
    """Gradients by name, and the loss."""
    for layer in layers.values():
        layer.zero_grad()
    loss = run()
    loss.backward()
    grads = [p.grad.clone() for layer in layers.values() for p in layer.parameters(recurse=False)]
    return [loss.detach(), *grads]


def on_forward(see):
    """Registers a forward hook on every layer: `see(output)` may keep something, or return another output."""

    def observe(layers, run):
        seen = []

        def hook(layer, args, output):
            kept, *new = see(output)
            seen.append(kept)
            return new[0] if new else None

        with removed(layer.register_forward_hook(hook) for layer in layers.values()):
            results = trained(layers, run)
        return results, [kept() if callable(kept) else kept for kept in seen]

    return observe


def keeping_hook(output):
    """A hook on the tensor that records its gradient."""
    seen = []
    output.register_hook(lambda g: seen.append(g.clone()))
    return (lambda: seen,)


def scaling_hook(output):
    output.register_hook(lambda g: g * 0.5)
    return (None,)


def retain_grad(output):
    output.retain_grad()
    return (lambda: output.grad,)


def node_hook(output):
    seen = []
    output.grad_fn.register_hook(lambda gi, go: seen.append([g.clone() for g in go]))
    return (lambda: seen,)


def node_prehook(output):
    output.grad_fn.register_prehook(lambda go: tuple(g * 0.5 for g in go))
    return (None,)


def edited(output):
    with torch.no_grad():
        output.detach().mul_(0.5)
    return (None,)


FORWARD = {
    "the output": lambda o: (o,),
    "its detached alias": lambda o: (o.detach(),),
    "its data": lambda o: (o.data,),
    "a view of it": lambda o: (o[:1].detach(),),
    "its chunks": lambda o: (o.detach().chunk(2),),
    "its numpy": lambda o: (o.detach().numpy(),),
    "its dlpack": lambda o: (torch.from_dlpack(o.detach()),),
    "its version": lambda o: (lambda: o._version,),
    "whether it is a leaf": lambda o: ((o.requires_grad, o.is_leaf, o.stride(), type(o)),),
    "a hook on the tensor": keeping_hook,
    "a hook that scales": scaling_hook,
    "retain_grad": retain_grad,
    "a hook on its node": node_hook,
    "a pre-hook on its node": node_prehook,
    "another output": lambda o: (None, o * 2),
    "a clone in its place": lambda o: (None, o.clone()),
}
