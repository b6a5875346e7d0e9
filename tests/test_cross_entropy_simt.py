"""The CUDA kernels of cross_entropy, run on csrc/simt: order of threads, maps, bad indices."""

import math

import pytest
import torch
from cross_entropy_cases import class_sizes, indices, probabilities
from matrix import DTYPES, needs_simt
from torch.nn import functional as stock_F

import torchext
from torchext import _backend
from torchext.nn import functional as F

pytestmark = needs_simt
SHAPES = [(100, 10), (40, 64), (9, 1001), (3, 2500), (2, 20001), (3, 7, 50), (2, 1100, 9), (1, 1030, 16)]


@pytest.fixture(autouse=True)
def simt():
    with torchext.backend("simt"):
        yield


def run(shape, dtype, soft, seed=0):
    torch.manual_seed(0)
    _backend.simt().seed(seed)
    x = (3 * torch.randn(shape, dtype=torch.float64)).to(dtype).requires_grad_()
    target = probabilities(shape, dtype) if soft else indices(shape)
    weight = torch.rand(shape[1], dtype=torch.float64).to(dtype)
    loss = F.cross_entropy(x, target, weight, label_smoothing=0.1)
    return loss, *torch.autograd.grad(loss, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_results_do_not_depend_on_the_order_of_threads_and_blocks(shape, dtype, soft):
    runs = [run(shape, dtype, soft, seed) for seed in range(3)]
    assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_increasing_decreasing_and_huge_logits_in_every_map(shape):
    ramp = torch.linspace(-300, 300, shape[1], dtype=torch.float64).view(-1, *[1] * (len(shape) - 2))
    for x in (ramp.expand(shape), -ramp.expand(shape), 1e4 + ramp.expand(shape)):
        x = x.float().detach().requires_grad_()
        target = indices(shape)
        ours, want = (f(x, target, reduction="none") for f in (F.cross_entropy, stock_F.cross_entropy))
        torch.testing.assert_close(ours, want)
        torch.testing.assert_close(*(torch.autograd.grad(f.sum(), x)[0] for f in (ours, want)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_nan_and_infinity_in_every_map(shape, soft):
    x = torch.randn(shape)
    last = (slice(-1, None), slice(None), *[slice(-1, None)] * (len(shape) - 2))
    for value in (math.nan, math.inf, -math.inf):
        x[last][:, -1] = value
        target = probabilities(shape) if soft else indices(shape)
        y = x.clone().requires_grad_()
        ours, want = (f(y, target, reduction="none") for f in (F.cross_entropy, stock_F.cross_entropy))
        torch.testing.assert_close(ours, want, equal_nan=True)
        gradients = (torch.autograd.grad(f.sum(), y)[0] for f in (ours, want))
        torch.testing.assert_close(*gradients, equal_nan=True, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 4), (3, 80), (2, 3000), (2, 4, 5), (4,)], ids=str)
def test_an_index_out_of_range_fails_the_kernels_assertion(shape):
    positions, classes = class_sizes(shape)
    for bad in (classes, -1, 2**40):
        target = torch.zeros(positions, dtype=torch.int64)
        target.view(-1)[-1] = bad
        with pytest.raises(IndexError, match=r"softmax.*_kernel.*assertion failed: Target is out of bounds"):
            F.cross_entropy(torch.randn(shape), target)


def test_a_sum_of_more_blocks_than_threads():
    x, target = torch.randn(70000, 3), torch.randint(3, (70000,))
    torch.testing.assert_close(F.cross_entropy(x, target), stock_F.cross_entropy(x, target))
