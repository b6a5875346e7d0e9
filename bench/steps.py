"""One row of a network: whole training steps by stock, by ours (imports changed, or our compile backend), compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import torchext

from . import exact, measure, memory
from .clock import Contender, Race, captured
from .harness import FUSED, OURS, STOCK, Network
from .measure import Settings

STEP = "step"


class Training:
    """A network, its batch and its optimiser on one package's layers, always from the same seed."""

    def __init__(self, network: Network, name: str, settings: Settings, seed: int = 0):
        space = torchext.nn if name in (OURS, FUSED) else torch.nn
        torch.manual_seed(seed)
        self.model, self.loss, batch, self.optimizer = network.maker(space, space.functional, network.batch)
        self.model.to(settings.device)
        if name == FUSED:
            self.model = torch.compile(self.model, backend="torchext")
        self.batch = [t.to(settings.device) for t in batch]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # every step has the same weights, none drifts into denormals; the work is the same
            if "capturable" in group:
                group["capturable"] = settings.device == "cuda"

    def step(self, _: object = None) -> None:
        self.optimizer.zero_grad()
        self.loss(self.model, self.batch).backward()
        self.optimizer.step()

    def gradients(self) -> list[Tensor]:
        """The loss and its gradients, without dropout."""
        for module in self.model.modules():
            if isinstance(module, torch.nn.modules.dropout._DropoutNd):
                module.eval()
        loss = self.loss(self.model, self.batch)
        return [loss.detach(), *torch.autograd.grad(loss, list(self.model.parameters()))]

    def double(self) -> Training:
        self.model.double()
        self.batch = exact.double(self.batch)
        return self

    def saved(self) -> int:
        """Bytes kept for backward beyond the parameters and the batch."""
        tensors = [*self.model.parameters(), *self.batch]
        return memory.saved(lambda *_: self.loss(self.model, self.batch), tensors, self.batch[0].device.type)


def distances(network: Network, settings: Settings) -> dict[str, dict[str, float]]:
    """The correctness column of stock and ours: loss and gradients of the first step."""

    @functools.cache
    def errors(name: str, seed: int) -> list[float]:
        return exact.errors(Training(network, name, settings, seed).gradients(), truth(seed))

    @functools.cache
    def truth(seed: int) -> list[Tensor]:
        return Training(network, STOCK, settings, seed).double().gradients()

    def draw(name: str) -> Callable[[int], dict[str, float]]:
        return lambda seed: exact.compare(errors(name, seed), errors(STOCK, seed))

    return {name: exact.mildest(draw(name)) for name in (STOCK, OURS)}


def entrants(network: Network, settings: Settings) -> dict[str, Training]:
    """Stock, ours both ways and, in typical rows, stock compiled by Inductor; nothing compiled with --compile none."""
    names = (STOCK, OURS) if settings.compile == "none" else (STOCK, OURS, FUSED)
    found = {name: Training(network, name, settings) for name in names}
    for name, loss in settings.compiled(found[STOCK].loss, network.typical).items():
        found[name] = Training(network, name, settings)
        found[name].loss = loss
    return found


def row(network: Network, settings: Settings, run: Callable[[Race], None]) -> dict[str, Any]:
    """The row as the JSON holds it."""
    torch._dynamo.reset()  # earlier rows' compilations count against this one's limit
    trainings = entrants(network, settings)
    contenders = {name: Contender({STEP: training.step}) for name, training in trainings.items()}
    found = distances(network, settings)
    providers: dict[str, dict[str, Any]] = {name: found.get(name, {}) for name in contenders}
    providers[OURS]["route"] = measure.route(trainings[OURS].step)
    for name, training in trainings.items():
        training.step()
        providers[name]["peak_bytes"] = memory.peak(training.step, settings.device)
        providers[name]["saved_bytes"] = training.saved()
    if settings.device == "cuda":
        for name in (STOCK, OURS):
            providers[f"{name} graphed"] = {}
            contenders[f"{name} graphed"] = captured(Training(network, name, settings).step, STEP)
    taken = measure.times(contenders, settings, run)
    for name, provider in providers.items():
        provider["modes"] = measure.modes(name, taken)
    return {**network.identity(), "kind": "network", "floor": {}, "left_out": {}, "providers": providers}
