"""Models of our layers inside torch's wrappers: gradients match those of torch's layers."""

import pytest
import torch
from torch import distributed
from torch import nn as stock
from torch.utils.checkpoint import checkpoint_sequential

from torchext import nn

X = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def group(tmp_path):
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def cnn(nn):
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 3))


def gradients(model):
    model(X).square().sum().backward()
    return [getattr(p.grad, "full_tensor", lambda p=p: p.grad)() for p in model.parameters()]


def assert_as_torchs(wrap):
    for ours, theirs in zip(gradients(wrap(cnn(nn))), gradients(wrap(cnn(stock))), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_data_parallel(group):
    assert_as_torchs(stock.parallel.DistributedDataParallel)


def test_fully_sharded_by_classes(group):
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    def wrap(model):
        policy = ModuleWrapPolicy({stock.Linear})
        model = FullyShardedDataParallel(model, auto_wrap_policy=policy, device_id=torch.device("cpu"))
        assert isinstance(model.module[4], FullyShardedDataParallel)
        return model

    assert_as_torchs(wrap)


def test_fully_sharded_layer_by_layer(group):
    from torch.distributed.fsdp import fully_shard

    def wrap(model):
        for layer in (model[0], model[4], model):
            fully_shard(layer)
        return model

    assert_as_torchs(wrap)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed(reentrant):
    class Checkpointed(stock.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return checkpoint_sequential(self.model, 2, x.clone().requires_grad_(), use_reentrant=reentrant)

    assert_as_torchs(Checkpointed)
