"""What a bench_<op>.py declares: sizes, providers, cost. It becomes one pytest-benchmark test per size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from .roof import Work

STOCK, OURS = "stock", "torchext"
COMPILED, AUTOTUNED = "torch.compile", "torch.compile max-autotune"
FUSED = f"{OURS} compiled"  # torch.compile(model, backend="torchext"), of a model of our layers


@dataclass(frozen=True)
class Size:
    """One row of an op: the numbers that `tensors` takes, the options every provider takes, dtype and memory format.

    `typical`: the README's row; torch.compile, which takes seconds, runs in these rows unless told otherwise.
    `device`: "cuda" for sizes that would take a CPU minutes.
    """

    shape: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.contiguous_format
    typical: bool = False
    device: str = "any"


@dataclass(frozen=True)
class Cost:
    """The floor of one size: compulsory bytes and operations, forward and backward."""

    forward: Work
    backward: Work


@dataclass(frozen=True)
class Peer:
    """Another project's function; left out, with the reason, where it does not run. `trains`: it has a backward."""

    function: Callable
    trains: bool = True


@dataclass(frozen=True)
class Case:
    """One row, ready to be measured."""

    op: str
    size: Size
    label: str
    tensors: Callable[..., list[Tensor]]
    providers: dict[str, Callable | Peer]
    cost: Callable[..., Cost]
    exact: Callable | None

    @property
    def device(self) -> str:
        return self.size.device

    def __str__(self) -> str:
        dtype = "" if self.size.dtype == torch.float32 else f" {name_of(self.size.dtype)}"
        layout = " channels_last" if self.size.layout == torch.channels_last else ""
        return f"{self.label}{dtype}{layout}"

    def inputs(self, device: str) -> list[Tensor]:
        """The tensors on their device, in their dtype and memory format; leaves stay leaves, labels stay integers."""
        return [self._placed(t, device) for t in self.tensors(*self.size.shape)]

    def _placed(self, t: Tensor, device: str) -> Tensor:
        if not t.is_floating_point():
            return t.to(device)
        layout = self.size.layout if t.dim() == 4 else torch.contiguous_format
        moved = t.detach().to(device, self.size.dtype).contiguous(memory_format=layout)
        return moved.requires_grad_(t.requires_grad)

    def bind(self, function: Callable) -> Callable:
        """The provider's function with this size's options."""
        options = self.size.options
        return lambda *tensors: function(*tensors, **options)

    def floor(self) -> Cost:
        return self.cost(self.size.dtype.itemsize, *self.size.shape, **self.size.options)

    def identity(self) -> dict[str, Any]:
        """What distinguishes this row from every other."""
        layout = "channels_last" if self.size.layout == torch.channels_last else "contiguous"
        return {
            "op": self.op,
            "size": self.label,
            "dtype": name_of(self.size.dtype),
            "layout": layout,
            "typical": self.size.typical,
        }


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


def bench(
    op: str,
    *,
    sizes: Sequence[Size],
    label: Callable[..., str],
    tensors: Callable[..., list[Tensor]],
    providers: dict[str, Callable | Peer],
    cost: Callable[..., Cost],
    exact: Callable | None = None,
) -> Callable:
    """The pytest test of an op, one parameter per size; assign it to a name beginning with `test_`.

    Args:
        op: its name in the tables.
        sizes: the rows.
        label: shape and options -> how a table calls that size.
        tensors: shape -> the float32 inputs and labels, on the CPU.
        providers: name -> function(*tensors, **options); "stock" is the baseline, "torchext" ours.
        cost: (bytes per element, *shape, **options) -> the floor.
        exact: (y, *tensors, **options) -> the right result in float64; stock's own in float64 if None. Takes y as
            a random op chose what it keeps.
    """

    def case(size: Size) -> Case:
        return Case(op, size, label(*size.shape, **size.options), tensors, providers, cost, exact)

    @pytest.mark.parametrize("case", [case(size) for size in sizes], ids=str)
    def test(case, measure_op):
        measure_op(case)

    test.__doc__ = f"Measures {op}."
    test.case = case  # for measurements at other sizes
    return test


@dataclass(frozen=True)
class Network:
    """One row of the networks: a maker of bench.models at one batch size."""

    name: str
    maker: Callable
    batch: int
    typical: bool
    device: str = "any"

    def __str__(self) -> str:
        return f"{self.name} batch {self.batch}"

    def identity(self) -> dict[str, Any]:
        size = f"batch {self.batch}"
        return {"op": self.name, "size": size, "dtype": "float32", "layout": "contiguous", "typical": self.typical}


def networks(rows: Sequence[tuple[str, Callable, Sequence[int]]]) -> Callable:
    """The pytest test of (name, maker, batch sizes); the first batch size is the typical one."""
    cases = [Network(name, maker, n, n == batches[0]) for name, maker, batches in rows for n in batches]

    @pytest.mark.parametrize("case", cases, ids=str)
    def test(case, measure_network):
        measure_network(case)

    test.__doc__ = "Measures whole training steps."
    return test
