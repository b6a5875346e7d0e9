"""One forward and backward of every op, dtype and memory format: the program to run under compute-sanitizer.

`python bench/gpu_steps.py [--device cpu] [backend ...]`; without a GPU the backends "simt" and "triton" run on the CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import torchext
from torchext import _backend
from torchext.nn import functional as F

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Step(NamedTuple):
    name: str
    function: Callable[..., Tensor]
    leaves: tuple[Tensor, ...]

    def run(self) -> tuple[Tensor, ...]:
        """The result and all gradients."""
        y = self.function(*self.leaves)
        return y, *torch.autograd.grad(y.sum(), self.leaves)


def steps(dtype: torch.dtype, device: str) -> Iterator[Step]:
    """Sizes have tails, and are small enough for a tool that slows kernels down a hundredfold."""

    def leaf(*shape):
        return torch.randn(shape, device=device).to(dtype).requires_grad_()

    x = leaf(67, 96)
    yield Step("linear_relu", F.linear_relu, (x, leaf(40, 96), leaf(40)))
    for classes in (10, 1000, 40000):
        target = torch.randint(classes, (9,), device=device)
        yield Step(f"cross_entropy {classes}", partial(F.cross_entropy, target=target), (leaf(9, classes),))
    plane = partial(F.cross_entropy, target=torch.randint(5, (2, 7, 9), device=device), label_smoothing=0.1)
    yield Step("cross_entropy planes", plane, (leaf(2, 5, 7, 9),))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        image = leaf(3, 8, 13, 11).detach().contiguous(memory_format=memory_format).requires_grad_()
        convolved = (image, leaf(16, 8, 3, 3), leaf(16))
        if (device, dtype, memory_format) != ("cuda", torch.float64, torch.channels_last):  # stock's: it is contiguous
            yield Step("conv2d", partial(F.conv2d, stride=2, padding=1), convolved)
            yield Step("conv2d_relu", partial(F.conv2d_relu, padding=1), convolved)
            yield Step("conv2d_relu_max_pool2d", partial(F.conv2d_relu_max_pool2d, pool_kernel_size=2), convolved)
        yield Step("max_pool2d 2x2", partial(F.max_pool2d, kernel_size=2), (image,))
        yield Step("max_pool2d 3x3", partial(F.max_pool2d, kernel_size=3, stride=2, padding=1), (image,))
    yield Step("dropout", partial(F.dropout, p=0.3), (x,))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("backend", nargs="*", help="native and triton by default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", action="append", help="one of its dtypes; may be given again; all by default")
    options = parser.parse_args()
    for backend in options.backend or ["native", *(["triton"] if _backend.triton() else [])]:
        for dtype in [getattr(torch, name) for name in options.dtype or []] or DTYPES:
            with torchext.backend(backend), torchext.record_routes() as routes:
                for step in steps(dtype, options.device):
                    if not all(t.isfinite().all() for t in step.run()):
                        raise SystemExit(f"{backend}, {dtype}, {step.name}: the result is not finite")
            others = [f"{route.op} by {route.backend} {route.why}" for route in routes if route.backend != backend]
            if others:
                raise SystemExit(f"{backend}, {dtype}: {'; '.join(others)}")
            print(f"{backend} {dtype}: {len(routes)} calls", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
