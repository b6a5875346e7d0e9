"""`python lacking.py NAME ...`: takes from torch what is private under each name in turn; torchext must train as stock.

Each in a process of its own, forked where torch is imported and torchext is not.
"""

import contextlib
import os
import pkgutil
import sys

import torch
from torch import nn as stock
from torch.nn import functional


def import_without(name):
    """torchext, by a torch that lacks it; then torch gets it back, for its own use."""
    module, _, path = name.partition(":")
    owner, _, attribute = f"{module}.{path}".rpartition(".")
    resolve, owner, found, gone = pkgutil.resolve_name, pkgutil.resolve_name(owner), pkgutil.resolve_name(name), False

    def resolve_others(asked):
        if asked == name:
            raise AttributeError(asked)
        return resolve(asked)

    pkgutil.resolve_name = resolve_others
    if attribute != "_register_builtin":  # torch declares our ops by it
        with contextlib.suppress(AttributeError, TypeError):  # what C made stays
            delattr(owner, attribute)
            gone = True
    import torchext

    if gone:
        setattr(owner, attribute, found)
    return torchext


def trained(nn, F):
    """The losses and parameters of two steps."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")
    images = nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    rows = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10))
    parameters = [*images.parameters(), *rows.parameters()]
    x, target, losses = torch.randn(64, 1, 16, 16), torch.arange(64) % 10, []
    for _ in range(2):
        maps = F.dropout(images(x) * 1, 1e-9, True, True)  # in place, and drops nothing
        logits = rows(maps.flatten(2))  # [64, 4, 10], by a product of three dimensions
        loss = F.cross_entropy(logits[:, 0], target) + F.cross_entropy(logits.flatten(1), target, size_average=False)
        gradients = torch.autograd.grad(loss + F.cross_entropy(logits[:2, 1], target[:2]), parameters)
        with torch.no_grad():
            for p, g in zip(parameters, gradients):
                p -= 0.1 * g
        losses.append(loss.detach())
    return [*losses, *(p.detach() for p in parameters)]


def check(name):
    torch.set_num_threads(1)
    expected = trained(stock, functional)
    torchext = import_without(name)
    from torchext import _private, nn
    from torchext.nn import functional as F

    for backend in "auto", "native":
        with torchext.backend(backend), torchext.record_routes() as routes:
            for got, want in zip(trained(nn, F), expected):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        if _private.UNASKED:
            assert {route.backend for route in routes} == {"stock"}, routes
            assert all(route.why.endswith(f"this torch has no {name.replace(':', '.')}") for route in routes), routes
        elif backend == "native":
            assert {"linear", "cross_entropy"} <= {route.op for route in routes if route.backend == "native"}, routes


for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        check(name)
        sys.exit()
    if os.waitpid(child, 0)[1]:
        sys.exit(f"without {name}: see above")
print("served")
