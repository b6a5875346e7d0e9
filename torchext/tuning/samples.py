"""What each op's samples are made of: a call to be timed, and the tensors it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._table import Family

When = dict[str, str]
Calls = list[Callable[[], object]]


def _all(family: Family, when: When) -> bool:
    return True


def _itself(when: When) -> list[When]:
    return [when]


@dataclass(frozen=True)
class Samples:
    """An op's samples: the sizes of its rows' ladders, and the calls of about a size.

    `candidates` tells which rows are measured, `stands_for` the rows that a row's measurement fills.
    """

    families: tuple[Family, ...]
    sizes: Callable[[Family, When], list[int]]
    calls: Callable[[Family, When, int], Calls]
    candidates: Callable[[Family, When], bool] = _all
    stands_for: Callable[[When], list[When]] = _itself


BYTES = {"4 or 8": "float32", "2": "bfloat16"}  # of a GPU's rows: the dtype that stands for those of as many bytes


def as_on_cpu(when: When, **classes: str) -> When:
    """A GPU's row in the classes of the CPU's samples: with gradient, unless it tells."""
    return {"dtype": BYTES[when["bytes"]], "gradient": "yes", "threads": "one"} | when | classes


def powers(low: int, high: int) -> list[int]:
    """The powers of two from 2^`low` to 2^`high`."""
    return [1 << bits for bits in range(low, high + 1)]


def root(value: float) -> int:
    """Its square root, rounded, at least 1."""
    return max(1, round(math.sqrt(value)))


def draw(when: When, *shape: int, needs_grad: bool | None = None) -> Tensor:
    """Normal numbers of the row's dtype; with gradient where the row has one."""
    x = torch.randn(shape, dtype=torch.float32).to(getattr(torch, when["dtype"]))
    gradient = when.get("gradient") == "yes" if needs_grad is None else needs_grad
    return x.requires_grad_(gradient)


def in_layout(x: Tensor, when: When) -> Tensor:
    """The same in the row's memory format."""
    if when["layout"] == "contiguous":
        return x
    return x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(x.requires_grad)


def step(call: Callable[[], Tensor], *tensors: Tensor | None) -> Callable[[], object]:
    """`call`, and the gradients of those tensors that want one."""
    leaves = [t for t in tensors if t is not None and t.requires_grad]
    if not leaves:
        return _without_gradient(call)
    with torch.enable_grad():
        dy = torch.ones_like(call().detach())

    def both() -> Sequence[Tensor]:
        return torch.autograd.grad(call(), leaves, dy)

    return both


def _without_gradient(call: Callable[[], Tensor]) -> Callable[[], object]:
    def run() -> Tensor:
        with torch.no_grad():
            return call()

    return run
