"""Gradients of a max-pooled convolution from its windows' winners, at most half of the convolution's results."""

import pytest
import torch
from matrix import DTYPES, Case
from torch.nn import functional as stock_F

import torchext
from torchext.nn import functional as F

SHAPES = {  # x, w, options: rows of a patch that fill half of their vectors at least, on every instruction set
    "one channel, half a vector": ((9, 1, 14, 14), (6, 1, 5, 5), {}),
    "LeNet's second": ((17, 6, 12, 12), (16, 6, 5, 5), {}),
    "padded, four rows": ((5, 3, 9, 10), (5, 3, 4, 3), {"padding": (2, 1)}),
    "strided, seven rows": ((3, 3, 25, 25), (4, 3, 7, 7), {"stride": 2, "padding": 3, "pool": 3, "pool_stride": 2}),
    "rows dilated": ((4, 8, 12, 12), (3, 8, 3, 3), {"dilation": (2, 1)}),
    "more vectors than a tile": ((2, 30, 8, 8), (4, 30, 3, 3), {"padding": 1}),
    "windows with a border": ((4, 8, 11, 11), (8, 8, 3, 3), {"pool": 3, "pool_stride": 2, "pool_padding": 1}),
    "gaps between windows": ((4, 4, 12, 12), (4, 4, 2, 3), {"pool": (1, 2), "pool_stride": 3}),
}


def pooled(F, pool=2, pool_stride=None, pool_padding=0, **options):
    if F is stock_F:
        return lambda *xwb: F.max_pool2d(F.relu(F.conv2d(*xwb, **options)), pool, pool_stride, pool_padding)
    pool = {"pool_kernel_size": pool, "pool_stride": pool_stride, "pool_padding": pool_padding}
    return lambda *xwb: F.conv2d_relu_max_pool2d(*xwb, **options, **pool)


def leaves_of(x, w, dtype=torch.float32, last=False):
    leaves = [torch.randn(s, dtype=torch.float64).to(dtype) for s in (x, w, w[:1])]
    if last:
        leaves[0] = leaves[0].to(memory_format=torch.channels_last)
    return [t.requires_grad_() for t in leaves]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("x, w, options", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_match_stock_judged_by_float64(cpu_isa, dtype, x, w, options, last):
    leaves = leaves_of(x, w, dtype, last)
    for wanted in ((True, True, True), (False, True, True), (True, False, False)):
        for t, want in zip(leaves, wanted):
            t.requires_grad_(want)
        Case(cpu_isa, dtype).assert_same_as_stock(pooled(F, **options), pooled(stock_F, **options), leaves)


@pytest.mark.native
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[2:])
def test_16_bit_gradients_are_those_of_float32_rounded_once(cpu_isa, dtype, last):
    """The winners are the same: 16 bits hold the inputs exactly."""
    leaves = leaves_of((9, 6, 12, 12), (16, 6, 5, 5), dtype, last)
    wide = [t.detach().float().requires_grad_() for t in leaves]
    results = []
    for tensors in (leaves, wide):
        y = pooled(F)(*tensors)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        results.append(torch.autograd.grad(y, tensors, dy.to(y.dtype)))
    for narrow, exact in zip(*results):
        torch.testing.assert_close(narrow, exact.to(dtype))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["x", "w", "dy"])
def test_non_finite_values_propagate_as_in_stock(cpu_isa, bad, where):
    """Stock computes the omitted products too: 0 times infinity there is NaN."""
    x, w, b = (t.detach() for t in leaves_of((6, 6, 12, 12), (16, 6, 5, 5)))
    dy = torch.rand(6, 16, 4, 4) + 0.5
    {"x": x, "w": w, "dy": dy}[where][1, 3, 2, 3] = bad
    leaves = [t.requires_grad_() for t in (x, w, b)]
    results = []
    for function in (pooled(F), pooled(stock_F)):
        y = function(*leaves)
        results.append((y, *torch.autograd.grad(y, leaves, dy)))
    for ours, stock in zip(*results):
        torch.testing.assert_close(ours.isfinite(), stock.isfinite())


def test_results_do_not_depend_on_the_number_of_threads(threads):
    leaves = leaves_of((70, 6, 12, 12), (16, 6, 5, 5))
    results = []
    for count in (1, 2):
        threads(count)
        y = pooled(F)(*leaves)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    assert all(torch.equal(one, two) for one, two in zip(*results))


@pytest.mark.parametrize("last", [False, True])
def test_winograd_convolutions_of_small_images_save_no_map(last):
    """Forward is Winograd's; the gradients are made from the winners."""
    leaves = leaves_of((8, 16, 14, 14), (32, 16, 5, 5), last=last)
    ours, stock = pooled(F, padding=2), pooled(stock_F, padding=2)
    y = ours(*leaves)
    kept_x, kept_w, offsets = y.grad_fn.saved_tensors
    assert kept_x is leaves[0] and kept_w is leaves[1] and offsets.dtype is torch.uint8
    Case(torchext._C.cpu_isa(), torch.float32).assert_same_as_stock(ours, stock, leaves)


@pytest.mark.native
def test_a_pooling_that_leaves_most_gradients_runs_apart():
    for stride, ops in ((2, ["conv2d_relu_max_pool2d"]), (1, ["conv2d_relu", "max_pool2d"])):
        with torchext.record_routes() as routes:
            F.conv2d_relu_max_pool2d(*leaves_of((4, 16, 8, 8), (16, 16, 3, 3)), pool_kernel_size=2, pool_stride=stride)
        assert [route.op for route in routes] == ops
