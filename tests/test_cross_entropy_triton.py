"""The Triton kernels of cross_entropy: edges of tiles, many tiles per program, bad indices."""

import math

import pytest
import torch
from cross_entropy_cases import class_sizes, indices, probabilities
from matrix import TRITON
from torch.nn import functional as stock_F

from torchext.nn import functional as F

if not TRITON:
    pytest.skip("needs Triton, and a GPU or its interpreter", allow_module_level=True)

from torchext.kernels import INTERPRETED
from torchext.kernels import cross_entropy as kernels
from torchext.kernels.cross_entropy_tile import forward_tile, logits

# Rows: many, one and part of one a tile, its last step one class; planes: wide, narrow, and of many classes.
SHAPES = [(130, 10), (3, 2048), (2, 4097), (3, 9, 515), (5, 2, 3), (1, 1025, 35)]

pytestmark = pytest.mark.usefixtures("on_triton")


def compared(x, target, **options):
    """Losses and gradients, ours beside stock's."""
    x = x.detach().requires_grad_()
    losses = [f(x, target, **options) for f in (F.cross_entropy, stock_F.cross_entropy)]
    torch.testing.assert_close(*losses, equal_nan=True)
    gradients = (torch.autograd.grad(loss.sum(), x)[0] for loss in losses)
    torch.testing.assert_close(*gradients, equal_nan=True, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_every_tile_and_its_edges(shape, soft):
    target = probabilities(shape) if soft else indices(shape)
    ramp = torch.linspace(-300, 300, shape[1]).view(-1, *[1] * (len(shape) - 2)).expand(shape)
    for x in (torch.randn(shape), ramp, 1e4 - ramp):
        compared(x, target, weight=torch.rand(shape[1]), label_smoothing=0.1, reduction="none")


@pytest.mark.parametrize("shape", SHAPES[2:5], ids=str)
def test_nan_and_infinity_in_the_last_place_of_a_tile(shape):
    for value in (math.nan, math.inf, -math.inf):
        x = torch.randn(shape)
        x.view(-1)[-1] = value
        compared(x, indices(shape), reduction="none")


@pytest.mark.parametrize("shape", [(1000, 10), (9, 3, 700)], ids=str)
def test_programs_of_several_tiles_give_the_same_stats(shape, monkeypatch):
    x, target = torch.randn(shape), indices(shape)
    results = []
    for programs in (8192, 4):  # 18 tiles of planes: the last of 4 programs has two too many
        monkeypatch.setattr(kernels, "PROGRAMS", programs)
        results.append(torch.ops.torchext.cross_entropy.triton(x, target, None, -100, 0.0, 1))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert torch.equal(results[0][1][:-1], results[1][1][:-1])


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU it ends the process's context, and all tests after it")
@pytest.mark.parametrize("shape", [(3, 4), (2, 3000), (2, 4, 5), (4,)], ids=str)
def test_an_index_out_of_range_fails_the_kernels_assertion(shape):
    positions, classes = class_sizes(shape)
    for bad in (classes, -1, 2**40):
        target = torch.zeros(positions, dtype=torch.int64)
        target.view(-1)[-1] = bad
        with pytest.raises(Exception, match="Target is out of bounds"):
            F.cross_entropy(torch.randn(shape), target)


def test_a_confident_prediction_keeps_its_precision():
    gaps = torch.arange(1.0, 15.0)
    x = torch.stack([torch.zeros_like(gaps), -gaps], 1)
    loss = F.cross_entropy(x, torch.zeros(len(gaps), dtype=torch.int64), reduction="none")
    torch.testing.assert_close(loss, torch.exp(-gaps.double()).log1p().float(), rtol=1e-6, atol=0)


def test_tiles_suit_the_shape():
    def tile(*shape, dtype=torch.float32):
        x = torch.empty(shape, dtype=dtype, device="meta")
        meta = forward_tile(logits(x, x))
        return meta["POSITIONS"], meta["CLASSES"], meta["num_warps"], meta["BY"], meta["STAGES"]

    assert tile(4096, 10) == (128, 16, 4, 2, 1)
    assert tile(4096, 1000) == (2, 1024, 4, 8, 1)
    assert tile(4096, 32000) == (1, 4096, 8, 16, 3)
    assert tile(4096, 32000, dtype=torch.float64) == (1, 2048, 8, 16, 3)
    assert tile(8, 21, 512, 512) == (512, 4, 4, 16, 3)
    assert tile(8, 21, 512, 512, dtype=torch.bfloat16) == (1024, 4, 4, 16, 3)
    assert tile(8, 32000, 1024) == (32, 64, 4, 16, 3)
    assert tile(2, 3, 7, 7) == (64, 4, 4, 1, 1)
