"""The demo's picture: both loss curves, and the forward+backward time of each of LeNet's layers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from . import load

ROUNDS = 60


def _layers(module, model, x: Tensor, labels: Tensor) -> dict[str, tuple[Callable, Tensor]]:
    """Each layer as a function, with the input it has inside the network."""
    F, shapes = module.F, {}
    steps = {
        "conv1 1->6, 5x5": model.conv1,
        "max_pool2d 24x24": lambda t: F.max_pool2d(t, 2, 2),
        "conv2 6->16, 5x5": model.conv2,
        "max_pool2d 8x8": lambda t: F.max_pool2d(t, 2, 2),
        "fc1 256->120": lambda t: model.fc1(t.flatten(1)),
        "fc2 120->84": model.fc2,
        "fc3 84->10": model.fc3,
        "cross_entropy": lambda t: module.loss_function()(t, labels),
    }
    for name, step in steps.items():
        shapes[name] = (step, x.detach())
        x = step(x)
    return shapes


def _seconds(step: Callable, x: Tensor, needs_dx: bool) -> float:
    x = x.clone().requires_grad_(needs_dx)
    start = time.perf_counter()
    y = step(x)
    y.backward(torch.ones_like(y))
    return time.perf_counter() - start


def time_layers(x: Tensor) -> dict[str, tuple[float, float]]:
    """Median milliseconds per layer, forward+backward, (torch, torchext), measured in turn."""
    labels = torch.arange(len(x)) % 10
    variants = []
    for package in ("torch", "torchext"):
        module = load(package)
        torch.manual_seed(0)
        variants.append(_layers(module, module.LeNet(), x, labels))
    times = {}
    for i, name in enumerate(variants[0]):
        rounds = [[_seconds(*variant[name], needs_dx=i > 0) for variant in variants] for _ in range(ROUNDS)]
        stock, ours = (1e3 * statistics.median(column) for column in zip(*rounds))
        times[name] = (stock, ours)
    return times


def draw(
    path: Path, stock: list[float], ours: list[float], layers: dict[str, tuple[float, float]], ratio: float
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (curves, bars) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    curves.plot(stock, color="tab:gray", linewidth=4, alpha=0.5, label="torch.nn")
    curves.plot(ours, color="tab:red", linewidth=1, label="torchext.nn")
    curves.set(yscale="log", xlabel="training step", ylabel="cross-entropy loss", title="The same loss curve")
    curves.legend()
    rows = range(len(layers))
    bars.barh([r - 0.2 for r in rows], [a for a, _ in layers.values()], height=0.4, color="tab:gray", label="torch.nn")
    bars.barh(
        [r + 0.2 for r in rows], [b for _, b in layers.values()], height=0.4, color="tab:red", label="torchext.nn"
    )
    for row, (a, b) in zip(rows, layers.values()):
        bars.text(max(a, b), row, f"  {a / b:.1f}x", va="center")
    bars.set(yticks=list(rows), xlabel="forward + backward, ms", title=f"Time per layer (whole step: {ratio:.1f}x)")
    bars.set_yticklabels(layers)
    bars.margins(x=0.12)
    bars.invert_yaxis()
    bars.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
