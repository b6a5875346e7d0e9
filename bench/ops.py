"""One row of an op: every provider that runs here, forward and backward, judged by float64, weighed and timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import torchext

from . import exact, measure, memory
from .clock import BOTH, Contender, Race, captured, differentiate
from .harness import OURS, STOCK, Case, Peer
from .measure import Settings


@dataclass
class Field:
    """The contenders of a row, and why other providers are left out."""

    case: Case
    settings: Settings
    tensors: list[Tensor]
    dy: Tensor | None
    functions: dict[str, Callable] = field(default_factory=dict)
    contenders: dict[str, Contender] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def enter(self, name: str, function: Callable, backend: str = "auto") -> None:
        self.functions[name] = function
        self.contenders[name] = differentiate(function, self.tensors, self.dy)
        self.contenders[name].backend = backend

    def enter_peer(self, name: str, peer: Peer) -> None:
        """Tries the peer first. One without a backward is timed on its forward."""
        function = self.case.bind(peer.function)
        function = function if peer.trains else torch.no_grad()(function)
        contender = differentiate(function, self.tensors, self.dy)
        if not peer.trains:
            del contender.phases["backward"]
        try:
            contender.run()
        except Exception as error:  # whatever a peer raises where it cannot run
            self.left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
        else:
            self.functions[name], self.contenders[name] = function, contender


def gather(case: Case, settings: Settings) -> tuple[Field, str]:
    """Every contender that runs here, and the backend that "auto" chose."""
    torch.manual_seed(0)
    tensors = case.inputs(settings.device)
    functions = {name: case.bind(f) for name, f in case.providers.items() if not isinstance(f, Peer)}
    y = functions[STOCK](*tensors).detach()
    entrants = Field(case, settings, tensors, torch.randn_like(y) if y.dim() else None)
    for name, function in functions.items():
        entrants.enter(name, function)
    route = measure.route(lambda: functions[OURS](*tensors))
    if route == "stock":  # shows whether the choice is right
        entrants.enter(f"{OURS} native", functions[OURS], "native")
    if settings.device == "cuda" and "triton" in torchext._backend.backends():
        entrants.enter(f"{OURS} triton", functions[OURS], "triton")
    for name, function in settings.compiled(functions[STOCK], case.size.typical).items():
        entrants.enter(name, function)
    for name, peer in case.providers.items():
        if isinstance(peer, Peer):
            entrants.enter_peer(name, peer)
    if settings.device == "cuda":
        for name in (STOCK, OURS):
            entrants.contenders[f"{name} graphed"] = captured(entrants.contenders[name].run)
    return entrants, route


def distance(entrants: Field, name: str) -> dict[str, float]:
    """The correctness column of one provider."""
    case, function = entrants.case, entrants.functions[name]
    stock = case.bind(case.providers[STOCK])

    def draw(seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        tensors = case.inputs(entrants.settings.device)
        dy = None if entrants.dy is None else torch.randn_like(entrants.dy)
        with torchext.backend(entrants.contenders[name].backend):
            actual = exact.results(function, tensors, dy)
        theirs = exact.results(stock, tensors, dy)[: len(actual)]
        return exact.compare(*(exact.errors(r, truth(case, tensors, r, dy)) for r in (actual, theirs)))

    return exact.mildest(draw)


def truth(case: Case, tensors: list[Tensor], results: list[Tensor], dy: Tensor | None) -> list[Tensor]:
    """The results in float64: stock's own, or those of the case's `exact`, which sees what a random op kept."""
    function = case.bind(case.providers[STOCK])
    if case.exact is not None:
        function = lambda *doubles: case.exact(results[0], *doubles, **case.size.options)
    return exact.results(function, exact.double(tensors), dy)


def weight(entrants: Field, name: str) -> dict[str, int]:
    """Peak bytes and, with a backward, the bytes saved for it."""
    contender, function = entrants.contenders[name], entrants.functions[name]
    with torchext.backend(contender.backend):
        contender.run()
        found = {"peak_bytes": memory.peak(contender.run, entrants.settings.device)}
        if "backward" in contender.phases:
            found["saved_bytes"] = memory.saved(function, entrants.tensors, entrants.settings.device)
    return found


def row(case: Case, settings: Settings, run: Callable[[Race], None]) -> dict[str, Any]:
    """The row as the JSON holds it."""
    entrants, route = gather(case, settings)
    providers: dict[str, dict[str, Any]] = {name: {} for name in entrants.contenders}
    for name in entrants.functions:  # a graph replays work that is already judged and weighed
        providers[name] = {**distance(entrants, name), **weight(entrants, name)}
    providers[OURS]["route"] = route
    taken = measure.times(entrants.contenders, settings, run)
    cost, identity = case.floor(), case.identity()
    work = {"forward": cost.forward, "backward": cost.backward, BOTH: cost.forward + cost.backward}
    for name, provider in providers.items():
        provider["modes"] = measure.modes(name, taken)
        measure.add_roof(provider["modes"], work, settings.roof, identity["dtype"])
    floor = {mode: {"bytes": w.bytes, "flops": w.flops} for mode, w in work.items()}
    return {**identity, "kind": "op", "floor": floor, "left_out": entrants.left_out, "providers": providers}
