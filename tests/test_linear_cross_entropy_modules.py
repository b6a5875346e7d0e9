"""linear_cross_entropy as users meet it: errors, the module, an older torch without the function."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from linear_cross_entropy_cases import chunks, unfused
from torch import nn as stock_nn

from torchext import nn
from torchext.nn import functional as F

has_stock = pytest.mark.skipif(not hasattr(stock_nn, "LinearCrossEntropyLoss"), reason="torch has it from 2.13 on")


def test_an_index_out_of_range_is_named():
    x, w = torch.randn(5, 4), torch.randn(6, 4)
    for bad in (6, -1, 2**40):
        target = torch.tensor([0, 1, 2, 3, bad])
        for grad in (False, True):
            with pytest.raises(IndexError, match=rf"linear_cross_entropy: expected target in \[0, 6\).* got {bad} "):
                F.linear_cross_entropy(x.requires_grad_(grad), w, target, options=chunks(2))


BAD = {
    "k differs": lambda: (torch.randn(2, 3), torch.randn(4, 5), torch.zeros(2, dtype=torch.int64), {}),
    "3-d input": lambda: (torch.randn(2, 2, 3), torch.randn(4, 3), torch.zeros(2, 2, dtype=torch.int64), {}),
    "1-d linear_weight": lambda: (torch.randn(2, 3), torch.randn(3), torch.zeros(2, dtype=torch.int64), {}),
    "batch differs": lambda: (torch.randn(2, 3), torch.randn(4, 3), torch.zeros(5, dtype=torch.int64), {}),
    "bias too long": lambda: (
        torch.randn(2, 3), torch.randn(4, 3), torch.zeros(2, dtype=torch.int64), {"linear_bias": torch.ones(5)}
    ),
    "dtypes differ": lambda: (torch.randn(2, 3), torch.randn(4, 3).double(), torch.zeros(2, dtype=torch.int64), {}),
    "weight too long": lambda: (
        torch.randn(2, 3), torch.randn(4, 3), torch.zeros(2, dtype=torch.int64), {"weight": torch.ones(5)}
    ),
    "smoothing 2": lambda: (
        torch.randn(2, 3), torch.randn(4, 3), torch.zeros(2, dtype=torch.int64), {"label_smoothing": 2.0}
    ),
    "unknown reduction": lambda: (
        torch.randn(2, 3), torch.randn(4, 3), torch.zeros(2, dtype=torch.int64), {"reduction": "average"}
    ),
    "ignored probabilities": lambda: (torch.randn(2, 3), torch.randn(4, 3), torch.rand(2, 4), {"ignore_index": 1}),
    "no batch but places": lambda: (torch.randn(3), torch.randn(4, 2, 3), torch.zeros(2, dtype=torch.int64), {}),
}  # fmt: skip


@has_stock
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_raises_what_stock_raises_and_names_the_arguments(bad):
    x, w, target, options = bad()
    with pytest.raises(Exception) as stock:
        torch.nn.functional.linear_cross_entropy(x, w, target, **options)
    with pytest.raises(stock.type, match=r"expected input .* linear_weight .*; got input .* linear_weight .*") as ours:
        F.linear_cross_entropy(x, w, target, **options)
    assert type(ours.value) is type(stock.value)


OPTIONS = ({}, {"bias": True, "weight": torch.rand(5)}, {"ignore_index": 1, "reduction": "sum", "out_features": (2, 3)})


@has_stock
@pytest.mark.parametrize("options", OPTIONS, ids=[",".join(o) or "plain" for o in OPTIONS])
def test_the_module_is_a_drop_in(options):
    x, target = torch.randn(7, 4), torch.randint(5, (7, *options.get("out_features", ())))
    ours, stock = nn.LinearCrossEntropyLoss(4, 5, **options), stock_nn.LinearCrossEntropyLoss(4, 5, **options)
    assert isinstance(ours, stock_nn.LinearCrossEntropyLoss) and repr(ours) == repr(stock)
    ours.load_state_dict(stock.state_dict(), strict=True)
    stock.load_state_dict(ours.state_dict(), strict=True)
    for twin in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(twin(x, target), stock(x, target))
    ours(x, target).backward()
    stock(x, target).backward()
    torch.testing.assert_close(ours.linear.weight.grad, stock.linear.weight.grad)


@has_stock
def test_torchs_own_options_are_accepted():
    options = stock_nn.LinearCrossEntropyOptions(batch_chunk_size=2)
    x, target = torch.randn(7, 4), torch.randint(5, (7,))
    ours = nn.LinearCrossEntropyLoss(4, 5, options=options)
    loss = ours(x, target)
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(loss, unfused(x, ours.linear.weight, None, target))


OLDER = """
import torch
from torch import nn as stock
for name in ("LinearCrossEntropyLoss", "LinearCrossEntropyOptions"):
    if hasattr(stock, name): delattr(stock, name)
if hasattr(stock.functional, "linear_cross_entropy"): del stock.functional.linear_cross_entropy
import torchext
from torchext import nn
F = nn.functional
torch.manual_seed(0)
x = torch.randn(7, 4)
for places in ((), (2,)):
    layer, target = nn.LinearCrossEntropyLoss(4, 5, out_features=places, bias=True), torch.randint(5, (7, *places))
    assert list(layer.state_dict()) == ["linear.weight", "linear.bias"] and "num_classes=5" in repr(layer)
    losses = [layer(x, target)]
    losses[0].backward()
    with torchext.backend("stock"):
        losses.append(layer(x, target))
    losses.append(torch.func.vmap(lambda _: layer(x, target))(torch.zeros(1))[0])
    assert all(torch.allclose(losses[0], loss) for loss in losses)
for wrong in ({"weight": torch.ones(3)}, {"label_smoothing": 2.0}):
    try:
        nn.LinearCrossEntropyLoss(4, 5, **wrong)
    except RuntimeError:
        continue
    raise AssertionError(wrong)
try:
    F.linear_cross_entropy(x, torch.randn(5, 4), torch.rand(7, 5), ignore_index=1)
except RuntimeError as error:
    assert "expected input" in str(error)
else:
    raise AssertionError("ignore_index with probabilities")
"""


def test_an_older_torch_gets_ours():
    subprocess.run([sys.executable, "-c", OLDER], check=True)
