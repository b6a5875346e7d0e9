"""The main job on real data: LeNet on scikit-learn's digits, trained with torch.nn and, side by side, torchext.nn.

Same seed, same data, same order; the network's source differs in its two import lines alone. Prints both accuracies,
the largest difference of the losses along the run and the step-time ratio; draws the losses and the time per layer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from importlib import resources
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

BATCH = 64
LEARNING_RATE = 1e-3
# Rounding takes the curves 1e-7 apart in the first epoch. Later a pixel on the edge of ReLU or a pool's tie falls the
# other way, and the runs go apart: stock's own float32 and float64 by 3e-3 in 20 epochs, one or two threads by 1e-2.
# A wrong gradient shows in the first epoch.
FIRST_EPOCH_TOLERANCE, TOLERANCE = 1e-4, 0.1


def load(package: str) -> ModuleType:
    """demo/lenet.py with `package` ("torch" or "torchext") in its imports."""
    source = (resources.files(__package__) / "lenet.py").read_text()
    source = source.replace("import torch.nn.functional", f"import {package}.nn.functional")
    source = source.replace("from torch import nn", f"from {package} import nn")
    module = ModuleType(f"lenet_on_{package}")
    exec(compile(source, module.__name__, "exec"), module.__dict__)
    return module


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1,500 training and 297 test images of handwritten digits, resized from 8x8 to 28x28, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    x = torch.nn.functional.interpolate(x, size=(28, 28), mode="bilinear", align_corners=False)
    x = (x - x.mean()) / x.std()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], torch.tensor(labels)[order]
    return x[:1500], y[:1500], x[1500:], y[1500:]


class Run:
    """One network in training, its losses and the time of each step."""

    def __init__(self, package: str):
        module = load(package)
        torch.manual_seed(0)
        self.model, self.loss_function = module.LeNet(), module.loss_function()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, x: Tensor, y: Tensor) -> None:
        start = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.loss_function(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())

    @torch.no_grad()
    def accuracy(self, x: Tensor, y: Tensor) -> float:
        return (self.model(x).argmax(1) == y).float().mean().item()


def train(epochs: int) -> tuple[Run, Run, tuple[float, float]]:
    """Both networks, step by step in turn, so that the machine's mood falls on both alike."""
    x, y, x_test, y_test = digits()
    stock, ours = Run("torch"), Run("torchext")
    order = torch.Generator().manual_seed(1)
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        for i, rows in enumerate(torch.randperm(len(x), generator=order).split(BATCH)):
            for run in (stock, ours) if i % 2 else (ours, stock):
                run.step(x[rows], y[rows])
        accuracies = stock.accuracy(x_test, y_test), ours.accuracy(x_test, y_test)
        print(
            f"epoch {epoch:2d}/{epochs}  loss {stock.losses[-1]:.4f} {ours.losses[-1]:.4f}  "
            f"test accuracy {accuracies[0]:.1%} {accuracies[1]:.1%}  {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return stock, ours, accuracies


def ratio(stock: Run, ours: Run) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile of stock's step time over ours, step by step, after a tenth for warm-up."""
    ratios = [a / b for a, b in zip(stock.seconds, ours.seconds)][len(stock.seconds) // 10 :]
    tenths = statistics.quantiles(ratios, n=10)
    return statistics.median(ratios), tenths[0], tenths[-1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m torchext demo", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, help="passes over the 1,500 training images, at least 1")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch's pool")
    parser.add_argument("--out", type=Path, default=Path("demo/lenet.png"), help="where to draw the picture")
    options = parser.parse_args(arguments)
    if options.epochs < 1 or options.threads < 1:
        parser.error("--epochs and --threads must be at least 1")
    torch.set_num_threads(options.threads)

    print(f"LeNet on 1,797 handwritten digits, batch {BATCH}, Adam, float32", end=", ")
    print(f"{options.threads} thread(s), torch {torch.__version__}")
    print("  - from torch import nn; import torch.nn.functional as F")
    print("  + from torchext import nn; import torchext.nn.functional as F")
    print("columns: torch, torchext")
    stock, ours, accuracies = train(options.epochs)

    apart = [abs(a - b) for a, b in zip(stock.losses, ours.losses)]
    first = max(apart[: len(apart) // options.epochs])
    median, low, high = ratio(stock, ours)
    step = [1e3 * statistics.median(run.seconds) for run in (stock, ours)]
    print(f"test accuracy            torch {accuracies[0]:.2%}   torchext {accuracies[1]:.2%}")
    print(f"largest loss difference  {first:.1e} in the first epoch, {max(apart):.1e} over all {len(apart)} steps")
    print(f"time per training step   torch {step[0]:.2f} ms   torchext {step[1]:.2f} ms")
    print(f"torchext is faster by    {median:.2f}x (10 % to 90 % of the steps: {low:.2f}x to {high:.2f}x)")

    from .picture import draw, time_layers

    layers = time_layers(digits()[0][:BATCH])
    for name, (a, b) in layers.items():
        print(f"  {name:22s} torch {a:7.3f} ms   torchext {b:7.3f} ms   {a / b:5.2f}x")
    draw(options.out, stock.losses, ours.losses, layers, median)
    print(f"picture                  {options.out}")
    if first > FIRST_EPOCH_TOLERANCE or max(apart) > TOLERANCE:
        print(
            f"FAILED: the loss curves part, by more than {FIRST_EPOCH_TOLERANCE:.0e} in the first epoch "
            f"or {TOLERANCE:g} over all",
            file=sys.stderr,
        )
        return 1
    return 0
