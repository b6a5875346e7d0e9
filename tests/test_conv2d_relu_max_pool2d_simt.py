"""The CUDA kernels of conv2d_relu_max_pool2d, run on csrc/simt: tiles, slices, bits, order of threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import DTYPES, needs_simt
from torch.nn import functional as stock_F
from traffic import launches

import torchext
from torchext import _backend
from torchext.nn import functional as F

pytestmark = needs_simt
ops = torch.ops.torchext
NAN = float("nan")


def options(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, kernel=(2, 2), step=(2, 2), pad=(0, 0)):
    return [*stride], [*padding], [*dilation], groups, [*kernel], [*step], [*pad]


def tensors(x, w, dtype, last):
    """Small integers: sums are exact in any order, and full of ties."""
    x, w, b = (torch.randint(-1, 2, size).to(dtype) for size in (x, w, w[:1]))
    return x.to(memory_format=torch.channels_last) if last else x, w, b


def run(overload, x, w, b, chosen, ceil=False, rounded=False):
    """y, offsets, dx, dw and db."""
    forward, backward = (getattr(getattr(ops, f"conv2d_relu_max_pool2d{part}"), overload) for part in ("", "_backward"))
    y, offsets = forward(x, w, b, *chosen, ceil)
    draw = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=draw) if rounded else torch.randint(-1, 2, y.shape, generator=draw)
    dy = dy.to(x.dtype)
    return y, offsets, *backward(dy, offsets, x, w, *chosen, True, True, True)


def assert_bits_of_the_cpu(x, w, b, chosen, ceil=False):
    for ours, cpu in zip(run("simt", x, w, b, chosen, ceil), run("default", x, w, b, chosen, ceil)):
        assert ours.stride() == cpu.stride()
        torch.testing.assert_close(ours, cpu, rtol=0, atol=0, equal_nan=True)


CASES = {  # x, w, options
    "whole images, several a block": ((13, 2, 8, 8), (6, 2, 5, 5), options()),
    "a last tile of fewer images": ((9, 1, 12, 12), (3, 1, 5, 5), options()),
    "tiles of 16 columns": ((1, 1, 40, 45), (2, 1, 5, 5), options()),
    "more tiles than blocks": ((2, 1, 70, 70), (2, 1, 5, 5), options()),
    "tiles that share windows": ((1, 1, 41, 44), (2, 1, 3, 3), options(kernel=(3, 3), step=(2, 2), pad=(1, 1))),
    "blocks of channels one after another": ((1, 2, 20, 20), (19, 2, 5, 5), options(padding=(2, 2))),
    "slices of channels": ((2, 20, 8, 8), (70, 20, 3, 3), options()),
    "channels in pieces": ((1, 300, 7, 7), (9, 300, 4, 4), options()),
    "rows of taps in slices": ((1, 1, 60, 9), (2, 1, 52, 7), options()),
    "groups": ((2, 6, 9, 9), (15, 2, 3, 3), options(groups=3)),
    "groups of whole images": ((2, 4, 8, 8), (6, 2, 5, 5), options(groups=2)),
    "stride and dilation": ((2, 2, 19, 23), (3, 2, 3, 5), options((2, 3), (3, 1), (2, 1))),
    "odd stride of windows": ((2, 2, 13, 14), (3, 2, 5, 5), options(kernel=(4, 5), step=(1, 3), pad=(2, 1))),
    "255 taps": ((1, 1, 20, 22), (2, 1, 3, 3), options(kernel=(15, 17), step=(2, 3), pad=(7, 8))),
    "one row": ((3, 2, 1, 33), (4, 2, 1, 3), options(kernel=(1, 3), step=(1, 2), pad=(0, 1))),
    "far more image than windows": ((1, 2, 40, 40), (2, 2, 3, 3), options(step=(38, 38))),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_every_bit_is_that_of_the_cpu_kernels(name, last):
    x, w, chosen = CASES[name]
    for dtype in (torch.float32, torch.bfloat16):
        assert_bits_of_the_cpu(*tensors(x, w, dtype, last), chosen)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_infinity_and_ties_choose_the_cpu_kernels_taps(dtype):
    x, w, b = tensors((3, 2, 12, 13), (4, 2, 3, 3), dtype, False)
    x[0, 0, 3, 3], x[0, 1, 8, 2:6], x[1, 0, 5, 5], x[2, 0] = NAN, NAN, float("inf"), -1
    w[3] = 0
    for chosen in (options(), options(kernel=(3, 3), pad=(1, 1))):
        for ours, cpu in zip(run("simt", x, w, b, chosen)[:2], run("default", x, w, b, chosen)[:2]):
            torch.testing.assert_close(ours, cpu, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=25)
@given(
    n=st.integers(0, 6), c=st.integers(1, 3), k=st.integers(1, 9), groups=st.integers(1, 2),
    image=st.tuples(st.integers(6, 15), st.integers(6, 15)), window=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)), padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2)]), last=st.booleans(), ceil=st.booleans(),
    pool=st.tuples(st.integers(1, 4), st.integers(1, 4)), step=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dtype=st.sampled_from(DTYPES),
)  # fmt: skip
def test_any_options(n, c, k, groups, image, window, stride, padding, dilation, last, ceil, pool, step, dtype):
    sizes = [1 + (image[i] + 2 * padding[i] - dilation[i] * (window[i] - 1) - 1) // stride[i] for i in (0, 1)]
    if any(size < kernel for size, kernel in zip(sizes, pool)):
        return
    torch.manual_seed(n * 97 + c * 31 + k)
    chosen = options(stride, padding, dilation, groups, pool, step, (pool[0] // 2, pool[1] // 2))
    if n:
        leaves = tensors((n, c * groups, *image), (k * groups, c, *window), dtype, last)
        assert_bits_of_the_cpu(*leaves, chosen, ceil)
    else:
        y, _, dx, dw, db = run("simt", *tensors((0, c, *image), (k, c, *window), dtype, last), options(padding=(3, 3)))
        assert y.numel() == dx.numel() == 0 and not dw.any() and not db.any()


@pytest.mark.parametrize("shape", [((7, 6, 12, 12), (16, 6, 5, 5)), ((1, 2, 40, 21), (7, 2, 3, 3))])
def test_results_do_not_depend_on_the_order_of_threads_and_blocks(shape):
    x, w, b = (torch.randn(size) for size in (*shape, shape[1][:1]))
    runs = []
    for seed in range(3):
        _backend.simt().seed(seed)
        runs.append(
            run("simt", x, w, b, options(kernel=(3, 3), step=(1, 1)), rounded=True)
        )  # up to 9 windows name one tap
    assert all(torch.equal(one, other) for later in runs[1:] for one, other in zip(runs[0], later))


def test_each_layer_gets_its_kernels():
    """Filters of 5 x 5 slide over pairs of columns; channels come in blocks of 6 or 8."""
    for (x, w), kernels in {
        ((2, 1, 12, 12), (6, 1, 5, 5)): ("conv_pool_kernel<float, 6, 5>", "input_gradient_kernel<float, 6, 5>"),
        ((2, 6, 12, 12), (16, 6, 5, 5)): ("conv_pool_kernel<float, 8, 5>", "input_gradient_kernel<float, 6, 5>"),
        ((2, 8, 12, 12), (8, 8, 3, 3)): ("conv_pool_kernel<float, 8, 0>", "input_gradient_kernel<float, 8, 0>"),
    }.items():
        leaves = tensors(x, w, torch.float32, False)
        names = [launch["kernel"] for launch in launches(lambda leaves=leaves: run("simt", *leaves, options()))]
        assert names[:2] == [*kernels]
        assert [name.split("<")[0] for name in names[2:]] == ["weight_gradient_kernel", "add_stripes_kernel"]


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_unwanted_gradients_are_not_computed(wanted):
    x, w, b = tensors((3, 2, 12, 12), (6, 2, 5, 5), torch.float32, False)
    y, offsets = ops.conv2d_relu_max_pool2d.simt(x, w, b, *options(), False)
    every = ops.conv2d_relu_max_pool2d_backward.simt(y, offsets, x, w, *options(), True, True, True)
    some = ops.conv2d_relu_max_pool2d_backward.simt(y, offsets, x, w, *options(), *wanted)
    for one, other, want in zip(some, every, wanted):
        assert torch.equal(one, other) if want else one.numel() == 0


def test_what_outgrows_shared_memory_is_composed(trace):
    """A window's patch of float64 is beyond 96 KB where that of float32 is not."""
    for dtype, fused in ((torch.float32, True), (torch.float64, False)):
        x, w, _ = tensors((1, 1, 160, 160), (2, 1, 2, 2), dtype, False)
        with torchext.backend("simt"), trace() as ran:
            y = F.conv2d_relu_max_pool2d(x, w, dilation=130, pool_kernel_size=2)
        assert torch.equal(y, stock_F.max_pool2d(stock_F.conv2d(x, w, dilation=130).relu(), 2))
        assert ("torchext.conv2d_relu_max_pool2d.simt" in ran) == fused
        if not fused:
            with pytest.raises(RuntimeError, match="outgrows shared memory"):
                ops.conv2d_relu_max_pool2d.simt(x, w, None, *options(dilation=(130, 130)), False)
