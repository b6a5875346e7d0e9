"""A whole training step of LeNet in functional style, imports changed and nothing else; SGD as in the courses."""

import torch

from torchext.demo import load

from .harness import Row

BATCHES = {64: 2.5, 512: 2.5}


def training_step(package: str, batch: int):
    module = load(package)
    torch.manual_seed(0)
    model, loss_function = module.LeNet(), module.loss_function()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))

    def run():
        optimizer.zero_grad()
        loss_function(model(x), y).backward()
        optimizer.step()

    return run


def rows():
    for batch, target in BATCHES.items():
        stock, ours = training_step("torch", batch), training_step("torchext", batch)
        yield Row("LeNet training step", f"batch {batch}", stock, ours, target)
